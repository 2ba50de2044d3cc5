/* Owns the walk over the arguments of a task: what is pending in them, which
 * containers lead there, and the new containers around what was made.
 */
#include "receiver/arguments.h"

#include <string.h>

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

static int
find_pending(Task *task, PyObject *object)
{
    Item *items = task_reserve(task->items, task->item_count, &task->item_room,
                               sizeof(*items), task->few_items);
    if (items == NULL) {
        return -1;
    }
    task->items = items;
    items[task->item_count++] =
        (Item){(Pending *)Py_NewRef(object), NULL, false};
    if (add_place(task, object, task->item_count - 1) < 0) {
        return -1;
    }
    PyObject *args = ((Pending *)object)->args;
    return args != NULL ? arguments_find(task, args) : 0;
}

static int
find_in(Task *task, PyObject *container)
{
    Node *nodes = task_reserve(task->nodes, task->node_count, &task->node_room,
                               sizeof(*nodes), task->few_nodes);
    if (nodes == NULL) {
        return -1;
    }
    task->nodes = nodes;
    nodes[task->node_count++] = (Node){Py_NewRef(container), false, NULL};
    if (add_place(task, container, task->node_count - 1) < 0) {
        return -1;
    }
    if (Py_EnterRecursiveCall(" while looking into the arguments of a task") !=
        0) {
        return -1;
    }
    int result = for_each(task, container, arguments_find);
    Py_LeaveRecursiveCall();
    return result;
}

int
arguments_find(Task *task, PyObject *object)
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

/* True if this is new. */
static bool
mark(Task *task, Node *node)
{
    if (node->leads || for_each(task, node->object, leads) == 0) {
        return false;
    }
    node->leads = true;
    return true;
}

/* Most containers stand before what they hold: so from the end. What several
 * hold stands before the later ones, as in a list of the links of a chain: so
 * from the start as well; and again for as long as something changes. */
void
arguments_mark(Task *task)
{
    bool changed = true;
    while (changed) {
        changed = false;
        for (size_t i = task->node_count; i-- > 0;) {
            changed |= mark(task, &task->nodes[i]);
        }
        for (size_t i = 0; changed && i < task->node_count; i++) {
            mark(task, &task->nodes[i]);
        }
    }
}

/* What is copied from may change meanwhile: a call that makes one of the
 * arguments, or another thread, may have it. So what is taken out is held. */
static PyObject *
replace_held(Task *task, PyObject *object)
{
    Py_INCREF(object);
    PyObject *result = arguments_replace(task, object);
    Py_DECREF(object);
    return result;
}

static PyObject *
copy_list(Task *task, PyObject *list, Node *node)
{
    PyObject *copy = PyList_New(0);
    /* Known before it is filled: it may hold itself. */
    node->copy = Py_XNewRef(copy);
    for (Py_ssize_t i = 0; copy != NULL && i < PyList_Size(list); i++) {
        PyObject *item = replace_held(task, PyList_GetItem(list, i));
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
        Py_INCREF(key);
        PyObject *item = replace_held(task, value);
        if (item == NULL || PyDict_SetItem(copy, key, item) < 0) {
            Py_CLEAR(copy);
        }
        Py_XDECREF(item);
        Py_DECREF(key);
    }
    return copy;
}

static PyObject *
copy_tuple(Task *task, PyObject *tuple, size_t place)
{
    Py_ssize_t n = PyTuple_Size(tuple);
    PyObject *copy = PyTuple_New(n);
    for (Py_ssize_t i = 0; copy != NULL && i < n; i++) {
        PyObject *item = arguments_replace(task, PyTuple_GetItem(tuple, i));
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
PyObject *
arguments_replace(Task *task, PyObject *object)
{
    if (!is_pending(task, object) && !is_container(object)) {
        return Py_NewRef(object);
    }
    intptr_t place = get_place(task, object);
    if (is_pending(task, object)) {
        if (place < 0) {
            PyErr_SetString(PyExc_RuntimeError,
                            "the arguments of a task have changed while they "
                            "were made");
            return NULL;
        }
        Item *item = &task->items[place];
        return task->make(task, item) == 0 ? Py_NewRef(item->array) : NULL;
    }
    if (place < 0) {
        return Py_NewRef(object); /* it was empty when all was looked for */
    }
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
        PyTuple_CheckExact(object)  ? copy_tuple(task, object, (size_t)place)
        : PyList_CheckExact(object) ? copy_list(task, object, node)
                                    : copy_dict(task, object, node);
    Py_LeaveRecursiveCall();
    return copy;
}
