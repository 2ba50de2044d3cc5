/* Owns the walk over the arguments of a batch, before it is pickled.
 *
 * What the tasks of a batch share is decided here, by identity, and not by what
 * the pickler remembers: that one object stands for the whole batch, and a task
 * that writes into it is seen by the next.
 */
#include "sender/scan.h"

#define SHARED (-1)

typedef struct {
    Outgoing *message;
    PyObject *types;
    PyObject *objects, *others; /* lists */
    intptr_t task;
} Scan;

static int visit(Scan *scan, PyObject *object);

bool
scan_is_shared(const Outgoing *message, PyObject *array)
{
    const intptr_t *task = idmap_find(&message->arguments, array);
    return task != NULL && *task == SHARED;
}

/* 1: this task is the first or second one that gets to `object`, which is to be
 * looked into; 0: all is known of it; -1 with an exception. */
static int
enter(Scan *scan, PyObject *object)
{
    intptr_t *task = idmap_find(&scan->message->arguments, object);
    if (task == NULL) {
        return idmap_add(&scan->message->arguments, object, scan->task) < 0 ? -1
                                                                            : 1;
    }
    if (*task == scan->task || *task == SHARED) {
        return 0;
    }
    *task = SHARED;
    return 1;
}

static int
visit_items(Scan *scan, PyObject *container)
{
    if (PyDict_CheckExact(container)) {
        PyObject *key, *value;
        Py_ssize_t position = 0;
        while (PyDict_Next(container, &position, &key, &value)) {
            if (visit(scan, key) < 0 || visit(scan, value) < 0) {
                return -1;
            }
        }
        return 0;
    }
    bool is_list = PyList_CheckExact(container);
    Py_ssize_t n = is_list ? PyList_Size(container) : PyTuple_Size(container);
    for (Py_ssize_t i = 0; i < n; i++) {
        PyObject *item = is_list ? PyList_GetItem(container, i)
                                 : PyTuple_GetItem(container, i);
        /* A list may have become shorter: another thread works on. */
        if (item == NULL) {
            return -1;
        }
        if (visit(scan, item) < 0) {
            return -1;
        }
    }
    return 0;
}

static int
visit_container(Scan *scan, PyObject *container)
{
    int entered = enter(scan, container);
    if (entered != 1) {
        return entered;
    }
    if (Py_EnterRecursiveCall(" while looking into the arguments of tasks") !=
        0) {
        return -1;
    }
    int result = visit_items(scan, container);
    Py_LeaveRecursiveCall();
    return result;
}

static int
visit_array(Scan *scan, PyObject *array)
{
    PyObject *type = (PyObject *)Py_TYPE(array);
    int entered = enter(scan, array);
    if (entered != 1 || Py_TYPE(array) == &PyArray_Type) {
        return entered < 0 ? -1 : 0;
    }
    int known = PySequence_Contains(scan->types, type);
    if (known == 0) {
        known = PySequence_Contains(scan->others, type) == 1 ||
                        PyList_Append(scan->others, type) == 0
                    ? 1
                    : -1;
    }
    return known < 0 ? -1 : 0;
}

static int
visit_object(Scan *scan, PyObject *object)
{
    if (idmap_find(&scan->message->arguments, object) != NULL) {
        return 0;
    }
    if (idmap_add(&scan->message->arguments, object, scan->task) < 0) {
        return -1;
    }
    return PyList_Append(scan->objects, object);
}

/* Nothing in it that a task could write to. */
static bool
is_atom(PyObject *object)
{
    PyTypeObject *type = Py_TYPE(object);
    return object == Py_None || type == &PyLong_Type || type == &PyFloat_Type ||
           type == &PyUnicode_Type || type == &PyBool_Type ||
           type == &PyBytes_Type || type == &PyComplex_Type ||
           type == &PyByteArray_Type || type == &PySlice_Type ||
           object == Py_Ellipsis ||
           PyObject_TypeCheck(object, &PyNumberArrType_Type);
}

static int
visit(Scan *scan, PyObject *object)
{
    if (is_atom(object)) {
        return 0;
    }
    if (PyTuple_CheckExact(object) || PyList_CheckExact(object) ||
        PyDict_CheckExact(object)) {
        return visit_container(scan, object);
    }
    /* An array of objects is an object that holds others. */
    if (PyArray_Check(object) &&
        !PyDataType_REFCHK(PyArray_DESCR((PyArrayObject *)object))) {
        return visit_array(scan, object);
    }
    return visit_object(scan, object);
}

PyObject *
scan_tasks(Outgoing *message, PyObject *tasks, PyObject *types)
{
    Scan scan = {message, types, PyList_New(0), PyList_New(0), 0};
    PyObject *result = NULL;
    if (scan.objects == NULL || scan.others == NULL) {
        goto done;
    }
    for (; scan.task < PyList_Size(tasks); scan.task++) {
        if (visit(&scan, PyList_GetItem(tasks, scan.task)) < 0) {
            goto done;
        }
    }
    result = PyTuple_Pack(2, scan.objects, scan.others);
done:
    Py_XDECREF(scan.objects);
    Py_XDECREF(scan.others);
    return result;
}
