/* Owns what happens to the arguments of a task when it starts.
 *
 * Three steps: find what is pending, and the containers that lead to it; make
 * the memory and the arrays; put them into new containers. All before the task
 * runs, so that no array shows what another one's user has written.
 */
#include "receiver/take.h"

#include "idmap.h"
#include "receiver/pending.h"
#include "threadlist.h"

#include <string.h>

/* A list, tuple or dict among the arguments. */
typedef struct {
    PyObject *object; /* borrowed: the arguments hold it */
    bool leads;       /* to something pending */
    PyObject *copy;   /* owned, or NULL */
} Node;

typedef struct {
    Pending *pending; /* borrowed, as above */
    PyObject *array;  /* owned, or NULL */
    bool begun;       /* it is made, or being made */
} Item;

/* The memory of one mapping, for all its views in the task. */
typedef struct {
    Source *source;     /* owned */
    npy_intp low, high; /* what the views span together */
    bool may_copy;
    Memory memory;
} Piece;

/* Most tasks have few arguments: so many need no memory but the stack, and no
 * table. */
#define FEW 8

typedef struct {
    ThreadLink link;
    State *state;
    Node *nodes;
    size_t node_count, node_room;
    Item *items;
    size_t item_count, item_room;
    Piece *pieces;
    size_t piece_count, piece_room;
    IdMap places; /* index of a container in nodes or of a Pending in items,
                   * once there are more than a few of them */
    Node few_nodes[FEW];
    Item few_items[FEW];
    Piece few_pieces[FEW];
} Task;

/* Room for one more in an array of `*room` items, of which `count` are used;
 * `few` is the one that it is at first. NULL with MemoryError. */
static void *
reserve(void *array, size_t count, size_t *room, size_t size, const void *few)
{
    if (count < *room) {
        return array;
    }
    void *larger = PyMem_Realloc(array == few ? NULL : array, 2 * *room * size);
    if (larger == NULL) {
        PyErr_NoMemory();
        return NULL;
    }
    if (array == few) {
        memcpy(larger, few, count * size);
    }
    *room *= 2;
    return larger;
}

/* It may lead to something. */
static bool
is_container(PyObject *object)
{
    return (PyTuple_CheckExact(object) && PyTuple_Size(object) > 0) ||
           (PyDict_CheckExact(object) && PyDict_Size(object) > 0) ||
           (PyList_CheckExact(object) && PyList_Size(object) > 0);
}

static bool
is_pending(const Task *task, PyObject *object)
{
    return Py_TYPE(object) == task->state->pending_type;
}

/* ---- Finding ------------------------------------------------------------ */

/* Calls visit(task, item) for what is in a container, until one returns other
 * than 0, which is returned. Keys of dicts can't be arrays, nor hold them. */
static int
for_each(Task *task, PyObject *container, int (*visit)(Task *, PyObject *))
{
    int result = 0;
    if (PyDict_CheckExact(container)) {
        PyObject *key, *value;
        Py_ssize_t position = 0;
        while (result == 0 && PyDict_Next(container, &position, &key, &value)) {
            result = visit(task, value);
        }
        return result;
    }
    bool is_list = PyList_CheckExact(container);
    Py_ssize_t n = is_list ? PyList_Size(container) : PyTuple_Size(container);
    for (Py_ssize_t i = 0; i < n && result == 0; i++) {
        result = visit(task, is_list ? PyList_GetItem(container, i)
                                     : PyTuple_GetItem(container, i));
    }
    return result;
}

/* The index of a container in nodes, or of a Pending in items; -1 when it is
 * new. */
static intptr_t
get_place(const Task *task, PyObject *object)
{
    if (task->places.count > 0) {
        const intptr_t *place = idmap_find(&task->places, object);
        return place != NULL ? *place : -1;
    }
    for (size_t i = 0; i < task->item_count; i++) {
        if ((PyObject *)task->items[i].pending == object) {
            return (intptr_t)i;
        }
    }
    for (size_t i = 0; i < task->node_count; i++) {
        if (task->nodes[i].object == object) {
            return (intptr_t)i;
        }
    }
    return -1;
}

/* Enters what was just added to nodes or items into the table, if there is one
 * or has to be from now on: 0 or -1. */
static int
add_place(Task *task, PyObject *object, size_t place)
{
    if (task->places.count > 0) {
        return idmap_add(&task->places, object, (intptr_t)place);
    }
    if (task->node_count + task->item_count <= FEW) {
        return 0;
    }
    for (size_t i = 0; i < task->item_count; i++) {
        if (idmap_add(&task->places, task->items[i].pending, (intptr_t)i) < 0) {
            return -1;
        }
    }
    for (size_t i = 0; i < task->node_count; i++) {
        if (idmap_add(&task->places, task->nodes[i].object, (intptr_t)i) < 0) {
            return -1;
        }
    }
    return 0;
}

static int find(Task *task, PyObject *object);

static int
find_pending(Task *task, PyObject *object)
{
    Item *items = reserve(task->items, task->item_count, &task->item_room,
                          sizeof(*items), task->few_items);
    if (items == NULL) {
        return -1;
    }
    task->items = items;
    items[task->item_count++] = (Item){(Pending *)object, NULL, false};
    if (add_place(task, object, task->item_count - 1) < 0) {
        return -1;
    }
    PyObject *args = ((Pending *)object)->args;
    return args != NULL ? find(task, args) : 0;
}

static int
find_in(Task *task, PyObject *container)
{
    Node *nodes = reserve(task->nodes, task->node_count, &task->node_room,
                          sizeof(*nodes), task->few_nodes);
    if (nodes == NULL) {
        return -1;
    }
    task->nodes = nodes;
    nodes[task->node_count++] = (Node){container, false, NULL};
    if (add_place(task, container, task->node_count - 1) < 0) {
        return -1;
    }
    if (Py_EnterRecursiveCall(" while looking into the arguments of a task") !=
        0) {
        return -1;
    }
    int result = for_each(task, container, find);
    Py_LeaveRecursiveCall();
    return result;
}

static int
find(Task *task, PyObject *object)
{
    if (is_pending(task, object)) {
        return get_place(task, object) >= 0 ? 0 : find_pending(task, object);
    }
    if (!is_container(object) || get_place(task, object) >= 0) {
        return 0;
    }
    return find_in(task, object);
}

static int
leads(Task *task, PyObject *object)
{
    if (is_pending(task, object)) {
        return 1;
    }
    intptr_t place = is_container(object) ? get_place(task, object) : -1;
    return place >= 0 && task->nodes[place].leads;
}

/* Containers stand before what they hold, cycles apart: so from the end, and
 * again for as long as something changes. */
static void
mark_nodes(Task *task)
{
    bool changed = true;
    while (changed) {
        changed = false;
        for (size_t i = task->node_count; i-- > 0;) {
            Node *node = &task->nodes[i];
            if (!node->leads && for_each(task, node->object, leads) != 0) {
                node->leads = changed = true;
            }
        }
    }
}

/* ---- Memory ------------------------------------------------------------- */

static bool
same_mapping(const Source *a, const Source *b)
{
    return a == b ||
           memcmp(PyBytes_AsString(a->reference.py_token),
                  PyBytes_AsString(b->reference.py_token), TOKEN_SIZE) == 0;
}

static Piece *
add_piece(Task *task, Source *source, npy_intp low, npy_intp high,
          bool may_copy)
{
    Piece *pieces = reserve(task->pieces, task->piece_count, &task->piece_room,
                            sizeof(*pieces), task->few_pieces);
    if (pieces == NULL) {
        return NULL;
    }
    task->pieces = pieces;
    Piece *piece = &pieces[task->piece_count++];
    *piece = (Piece){source, low, high, may_copy, {0}};
    Py_INCREF((PyObject *)source);
    return piece;
}

/* Adds what one view needs to the piece of its mapping: 0 or -1. */
static int
add_view(Task *task, const View *view, bool may_copy)
{
    Source *source = (Source *)view->source;
    may_copy &= view_may_be_copied(view);
    for (size_t i = 0; i < task->piece_count; i++) {
        Piece *piece = &task->pieces[i];
        if (same_mapping(piece->source, source)) {
            piece->low = view->low < piece->low ? view->low : piece->low;
            piece->high = view->high > piece->high ? view->high : piece->high;
            piece->may_copy &= may_copy;
            return 0;
        }
    }
    return add_piece(task, source, view->low, view->high, may_copy) != NULL
               ? 0
               : -1;
}

static int
make_pieces(Task *task)
{
    bool may_copy = true;
    for (size_t i = 0; i < task->item_count; i++) {
        /* Nobody knows before which bytes of a mapping are used there. */
        may_copy &= task->items[i].pending->call == NULL;
    }
    for (size_t i = 0; i < task->item_count; i++) {
        const Pending *pending = task->items[i].pending;
        if (pending->call == NULL &&
            Py_TYPE(pending->view.source) == task->state->source_type &&
            add_view(task, &pending->view, may_copy) < 0) {
            return -1;
        }
    }
    for (size_t i = 0; i < task->piece_count; i++) {
        Piece *piece = &task->pieces[i];
        if (source_make(piece->source, piece->low, piece->high, piece->may_copy,
                        &piece->memory) < 0) {
            return -1;
        }
    }
    return 0;
}

static const Memory *
find_piece(Task *task, const Source *source, npy_intp low, npy_intp high)
{
    for (size_t i = 0; i < task->piece_count; i++) {
        const Piece *piece = &task->pieces[i];
        if (same_mapping(piece->source, source) && low >= piece->memory.low &&
            high <= piece->memory.high) {
            return &piece->memory;
        }
    }
    return NULL;
}

const Memory *
take_memory(State *state, Source *source, npy_intp low, npy_intp high)
{
    Task *task = (Task *)(void *)threadlist_current(state->tasks);
    if (task == NULL) {
        return NULL;
    }
    const Memory *memory = find_piece(task, source, low, high);
    if (memory != NULL) {
        return memory;
    }
    Piece *piece = add_piece(task, source, low, high, false);
    if (piece == NULL ||
        source_make(source, low, high, false, &piece->memory) < 0) {
        return NULL;
    }
    return &piece->memory;
}

/* ---- Arrays ------------------------------------------------------------- */

/* New reference: an array that owns a copy of the bytes, which has no gaps. */
static PyObject *
copy_plain(const View *view, int order)
{
    npy_intp size = view->high - view->low;
    Py_INCREF((PyObject *)view->descr);
    PyObject *array =
        PyArray_NewFromDescr(&PyArray_Type, view->descr, view->layout.ndim,
                             view->layout.shape, NULL, NULL, order, NULL);
    if (array != NULL && size > 0) {
        memcpy(PyArray_BYTES((PyArrayObject *)array),
               PyBytes_AsString(view->source) + view->low, (size_t)size);
    }
    return array;
}

/* New reference: a copy of the bytes, for one task; those that it can't write
 * to serve all. NULL with an exception. */
static PyObject *
copy_array(State *state, const View *view)
{
    const Layout *layout = &view->layout;
    Memory memory = {0};
    int result, order = layout_order(layout, PyDataType_ELSIZE(view->descr));
    bool writeable = layout->flags & LAYOUT_WRITEABLE;
    bool plain = view->header == NULL && !(layout->flags & LAYOUT_UNALIGNED);
    if (writeable && plain && order >= 0) {
        return copy_plain(view, order);
    }
    if (writeable) {
        npy_intp size = PyBytes_Size(view->source);
        result = memory_allocate(0, size, &memory);
        if (result == 0) {
            memcpy(memory.data, PyBytes_AsString(view->source), (size_t)size);
        }
    } else {
        result = memory_of(state, view->source, &memory);
    }
    PyObject *array = result == 0 ? view_build(state, view, &memory) : NULL;
    memory_clear(&memory);
    return array;
}

/* New reference: the array, NULL with an exception. */
static PyObject *
make_array(Task *task, const Pending *pending)
{
    State *state = task->state;
    const View *view = &pending->view;
    PyObject *array = NULL;
    if (Py_TYPE(view->source) != state->source_type) {
        array = copy_array(state, view);
    } else {
        const Memory *memory =
            take_memory(state, (Source *)view->source, view->low, view->high);
        array = memory != NULL ? view_build(state, view, memory) : NULL;
    }
    if (array != NULL && pending->finish != NULL) {
        core_set(&array, PyObject_CallFunctionObjArgs(
                             PyTuple_GetItem(pending->finish, 0), array,
                             PyTuple_GetItem(pending->finish, 1), NULL));
    }
    return array;
}

static PyObject *replace(Task *task, PyObject *object);
/* New reference: what the function returns; NULL with an exception. */
static PyObject *
make_object(Task *task, const Pending *pending)
{
    PyObject *args = replace(task, pending->args);
    if (args == NULL) {
        return NULL;
    }
    PyObject *object = PyObject_CallObject(pending->call, args);
    Py_DECREF(args);
    return object;
}

/* Makes what is pending there, unless it is made: 0, or -1 with an exception.
 */
static int
make_item(Task *task, Item *item)
{
    if (item->begun) {
        if (item->array == NULL) {
            PyErr_SetString(PyExc_ValueError, "what is pending needs itself");
        }
        return item->array != NULL ? 0 : -1;
    }
    item->begun = true;
    item->array = item->pending->call != NULL ? make_object(task, item->pending)
                                              : make_array(task, item->pending);
    return item->array != NULL ? 0 : -1;
}

/* The calls come last: they may see what they are given. What they need of each
 * other `replace` makes. */
static int
make_arrays(Task *task)
{
    for (int calls = 0; calls <= 1; calls++) {
        for (size_t i = 0; i < task->item_count; i++) {
            Item *item = &task->items[i];
            if ((item->pending->call != NULL) == calls &&
                make_item(task, item) < 0) {
                return -1;
            }
        }
    }
    return 0;
}

/* ---- Containers --------------------------------------------------------- */

static PyObject *
copy_list(Task *task, PyObject *list, Node *node)
{
    Py_ssize_t n = PyList_Size(list);
    PyObject *copy = PyList_New(0);
    /* Known before it is filled: it may hold itself. */
    node->copy = Py_XNewRef(copy);
    for (Py_ssize_t i = 0; copy != NULL && i < n; i++) {
        PyObject *item = replace(task, PyList_GetItem(list, i));
        if (item == NULL || PyList_Append(copy, item) < 0) {
            Py_CLEAR(copy);
        }
        Py_XDECREF(item);
    }
    return copy;
}

static PyObject *
copy_dict(Task *task, PyObject *dict, Node *node)
{
    PyObject *copy = PyDict_New();
    PyObject *key, *value;
    Py_ssize_t position = 0;
    node->copy = Py_XNewRef(copy);
    while (copy != NULL && PyDict_Next(dict, &position, &key, &value)) {
        PyObject *item = replace(task, value);
        if (item == NULL || PyDict_SetItem(copy, key, item) < 0) {
            Py_CLEAR(copy);
        }
        Py_XDECREF(item);
    }
    return copy;
}

static PyObject *
copy_tuple(Task *task, PyObject *tuple, size_t place)
{
    Py_ssize_t n = PyTuple_Size(tuple);
    PyObject *copy = PyTuple_New(n);
    for (Py_ssize_t i = 0; copy != NULL && i < n; i++) {
        PyObject *item = replace(task, PyTuple_GetItem(tuple, i));
        if (item == NULL || PyTuple_SetItem(copy, i, item) < 0) {
            Py_CLEAR(copy);
        }
    }
    /* A tuple can hold itself only by way of a list or dict, which was copied
     * just now and has met this tuple, and made it: that one is it, as in
     * copy.deepcopy. */
    if (copy != NULL && task->nodes[place].copy != NULL) {
        core_set(&copy, Py_NewRef(task->nodes[place].copy));
    }
    if (copy != NULL && task->nodes[place].copy == NULL) {
        task->nodes[place].copy = Py_NewRef(copy);
    }
    return copy;
}

/* New reference: `object` itself or what stands for it in this task. */
static PyObject *
replace(Task *task, PyObject *object)
{
    if (is_pending(task, object)) {
        Item *item = &task->items[get_place(task, object)];
        return make_item(task, item) == 0 ? Py_NewRef(item->array) : NULL;
    }
    if (!is_container(object)) {
        return Py_NewRef(object);
    }
    size_t place = (size_t)get_place(task, object);
    Node *node = &task->nodes[place];
    if (!node->leads) {
        return Py_NewRef(object);
    }
    if (node->copy != NULL) {
        return Py_NewRef(node->copy);
    }
    if (Py_EnterRecursiveCall(" while copying the arguments of a task") != 0) {
        return NULL;
    }
    PyObject *copy =
        PyTuple_CheckExact(object)  ? copy_tuple(task, object, place)
        : PyList_CheckExact(object) ? copy_list(task, object, node)
                                    : copy_dict(task, object, node);
    Py_LeaveRecursiveCall();
    return copy;
}

static void
clear_task(Task *task)
{
    for (size_t i = 0; i < task->node_count; i++) {
        Py_XDECREF(task->nodes[i].copy);
    }
    for (size_t i = 0; i < task->item_count; i++) {
        Py_XDECREF(task->items[i].array);
    }
    for (size_t i = 0; i < task->piece_count; i++) {
        memory_clear(&task->pieces[i].memory);
        Py_DECREF((PyObject *)task->pieces[i].source);
    }
    PyMem_Free(task->nodes != task->few_nodes ? task->nodes : NULL);
    PyMem_Free(task->items != task->few_items ? task->items : NULL);
    PyMem_Free(task->pieces != task->few_pieces ? task->pieces : NULL);
    idmap_clear(&task->places);
}

/* New reference: `object` as this task has it; NULL with an exception. */
static PyObject *
take(State *state, PyObject *object)
{
    PyObject *result = NULL;
    Task task;
    task.state = state;
    task.nodes = task.few_nodes;
    task.items = task.few_items;
    task.pieces = task.few_pieces;
    task.node_count = task.item_count = task.piece_count = 0;
    task.node_room = task.item_room = task.piece_room = FEW;
    task.places = (IdMap){NULL, 0, 0};
    if (find(&task, object) < 0) {
        goto done;
    }
    if (task.item_count == 0) {
        result = Py_NewRef(object);
        goto done;
    }
    mark_nodes(&task);
    threadlist_push(&state->tasks, &task.link);
    if (make_pieces(&task) == 0 && make_arrays(&task) == 0) {
        result = replace(&task, object);
    }
    threadlist_remove(&state->tasks, &task.link);
done:
    clear_task(&task);
    return result;
}

PyObject *
take_run(PyObject *module, PyObject *args)
{
    if (PyTuple_Size(args) != 3 || !PyTuple_Check(PyTuple_GetItem(args, 1)) ||
        !PyDict_Check(PyTuple_GetItem(args, 2))) {
        PyErr_SetString(PyExc_TypeError,
                        "run takes a function, a tuple and a dict");
        return NULL;
    }
    PyObject *own = take(PyModule_GetState(module), args);
    if (own == NULL) {
        return NULL;
    }
    PyObject *result =
        PyObject_Call(PyTuple_GetItem(own, 0), PyTuple_GetItem(own, 1),
                      PyTuple_GetItem(own, 2));
    Py_DECREF(own);
    return result;
}
