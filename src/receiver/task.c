/* Owns what happens to the arguments of a task when it starts: what is pending
 * is found, memory and arrays are made for it, new containers hold them, and
 * the task runs.
 */

#include "receiver/task.h"

#include "receiver/arguments.h"
#include "receiver/lost.h"
#include "receiver/pieces.h"

#include <string.h>

void *
task_reserve(void *array, size_t count, size_t *room, size_t size,
             const void *few)
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
    bool plain = view->memmap == NULL && !(layout->flags & LAYOUT_UNALIGNED);
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
        Memory memory = {0};
        int found = pieces_get(state, (Source *)view->source, view->low,
                               view->high, &memory);
        assert(found != 0); /* this thread is in a task */
        array = found > 0 ? view_build(state, view, &memory) : NULL;
        memory_clear(&memory);
    }
    if (array != NULL && pending->finish != NULL) {
        core_set(&array, PyObject_CallFunctionObjArgs(
                             PyTuple_GetItem(pending->finish, 0), array,
                             PyTuple_GetItem(pending->finish, 1), NULL));
    }
    return array;
}

static PyObject *
make_object(Task *task, const Pending *pending)
{
    PyObject *args = arguments_replace(task, pending->args);
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

static void
clear_task(Task *task)
{
    for (size_t i = 0; i < task->node_count; i++) {
        Py_XDECREF(task->nodes[i].copy);
        Py_DECREF(task->nodes[i].object);
    }
    for (size_t i = 0; i < task->item_count; i++) {
        Py_XDECREF(task->items[i].array);
        Py_DECREF((PyObject *)task->items[i].pending);
    }
    for (size_t i = 0; i < task->piece_count; i++) {
        memory_clear(&task->pieces[i].memory);
        Py_DECREF((PyObject *)task->pieces[i].source);
    }
    PyMem_Free(task->nodes != task->few_nodes ? task->nodes : NULL);
    PyMem_Free(task->items != task->few_items ? task->items : NULL);
    PyMem_Free(task->pieces != task->few_pieces ? task->pieces : NULL);
    idmap_clear(&task->first_pieces);
    idmap_clear(&task->places);
}

/* New reference: `object` as this task has it; NULL with an exception. */
static PyObject *
take(State *state, PyObject *object)
{
    PyObject *result = NULL;
    Task task;
    task.state = state;
    task.make = make_item;
    task.nodes = task.few_nodes;
    task.items = task.few_items;
    task.pieces = task.few_pieces;
    task.node_count = task.item_count = task.piece_count = 0;
    task.node_room = task.item_room = task.piece_room = FEW;
    task.places = task.first_pieces = (IdMap){NULL, 0, 0};
    if (arguments_find(&task, object) < 0) {
        goto done;
    }
    if (task.item_count == 0) {
        result = Py_NewRef(object);
        goto done;
    }
    arguments_mark(&task);
    threadlist_push(&state->tasks, &task.link);
    if (pieces_make(&task) == 0 && make_arrays(&task) == 0) {
        result = arguments_replace(&task, object);
    }
    threadlist_remove(&state->tasks, &task.link);
done:
    clear_task(&task);
    return result;
}

PyObject *
task_run(PyObject *module, PyObject *args)
{
    if (PyTuple_Size(args) != 3 || !PyTuple_Check(PyTuple_GetItem(args, 1)) ||
        !PyDict_Check(PyTuple_GetItem(args, 2))) {
        PyErr_SetString(PyExc_TypeError,
                        "run takes a function, a tuple and a dict");
        return NULL;
    }
    State *state = PyModule_GetState(module);
    LostWatch watch;
    lost_begin(state, &watch);
    PyObject *result = NULL, *own = take(state, args);
    if (own != NULL) {
        result = PyObject_Call(PyTuple_GetItem(own, 0), PyTuple_GetItem(own, 1),
                               PyTuple_GetItem(own, 2));
    }
    lost_end(state, &watch);
    Py_XDECREF(own);
    return result;
}
