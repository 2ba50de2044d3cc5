/* Owns the walk over the arguments of a batch, before it is pickled.
 *
 * What the tasks of a batch share is decided here, by identity, and not by what
 * the pickler remembers: that one object stands for the whole batch, and a task
 * that writes into it is seen by the next.
 */
#include "sender/scan.h"

#include "sender/siblings.h"

#define SHARED (-1)

typedef struct {
    Outgoing *message;
    PyObject *types;
    PyObject *objects, *others; /* lists */
    IdMap inside; /* containers within functions, and the task that was seen
                     there */
    intptr_t task;
} Scan;

/* What `visit` is to do with an item of a container. */
typedef int Visit(Scan *scan, PyObject *object);

bool
scan_is_shared(const Outgoing *message, PyObject *object)
{
    const intptr_t *task = idmap_find(&message->arguments, object);
    return task != NULL && *task == SHARED;
}

bool
scan_is_argument(const Outgoing *message, PyObject *array)
{
    return idmap_find(&message->arguments, array) != NULL;
}

int
scan_meet(Outgoing *message, PyObject *array)
{
    intptr_t *task = idmap_find(&message->arguments, array);
    if (task == NULL) {
        return siblings_meet(message, (PyArrayObject *)array);
    }
    if (message->phase == PHASE_OWN_OBJECTS) {
        message->entangled = true;
    } else if (message->phase == PHASE_OBJECTS) {
        *task = SHARED;
    }
    return 0;
}

/* 1: this task is the first or second one that gets to `object`, which is to be
 * looked into; 0: all is known of it; -1 with an exception. */
static int
enter(IdMap *map, PyObject *object, intptr_t now)
{
    intptr_t *task = idmap_find(map, object);
    if (task == NULL) {
        return idmap_add(map, object, now) < 0 ? -1 : 1;
    }
    if (*task == now || *task == SHARED) {
        return 0;
    }
    *task = SHARED;
    return 1;
}

static int
visit_items(Scan *scan, PyObject *container, Visit *visit)
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
        /* NULL: another thread has made the list shorter meanwhile. */
        if (item == NULL || visit(scan, item) < 0) {
            return -1;
        }
    }
    return 0;
}

static int
visit_container(Scan *scan, PyObject *container, IdMap *map, Visit *visit)
{
    int entered = enter(map, container, scan->task);
    if (entered != 1) {
        return entered;
    }
    if (Py_EnterRecursiveCall(" while looking into the arguments of tasks") !=
        0) {
        return -1;
    }
    int result = visit_items(scan, container, visit);
    Py_LeaveRecursiveCall();
    return result;
}

static int
visit_array(Scan *scan, PyObject *array)
{
    PyObject *type = (PyObject *)Py_TYPE(array);
    int entered = enter(&scan->message->arguments, array, scan->task);
    if (entered == 1 &&
        siblings_note(scan->message, (PyArrayObject *)array, scan->task,
                      scan_is_shared(scan->message, array)) < 0) {
        return -1;
    }
    if (entered != 1 || Py_TYPE(array) == &PyArray_Type) {
        return entered < 0 ? -1 : 0;
    }
    int known = PySequence_Contains(scan->types, type);
    if (known == 0) {
        known = PySequence_Contains(scan->others, type);
    }
    return known == 0 ? PyList_Append(scan->others, type) : known < 0 ? -1 : 0;
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

static bool
is_container(PyObject *object)
{
    return PyTuple_CheckExact(object) || PyList_CheckExact(object) ||
           PyDict_CheckExact(object);
}

/* An array of objects is an object that holds others. */
static bool
is_array(PyObject *object)
{
    return PyArray_Check(object) &&
           !PyDataType_REFCHK(PyArray_DESCR((PyArrayObject *)object));
}

static int visit_object(Scan *scan, PyObject *object);

/* Of what functions carry along, the objects are of interest: arrays there are
 * not arguments. */
static int
visit_inside(Scan *scan, PyObject *object)
{
    if (is_atom(object) || is_array(object)) {
        return 0;
    }
    return is_container(object)
               ? visit_container(scan, object, &scan->inside, visit_inside)
               : visit_object(scan, object);
}

/* An attribute that may be missing: an empty cell has no content. */
static int
visit_attribute(Scan *scan, PyObject *object, const char *name, Visit *visit)
{
    PyObject *value = PyObject_GetAttrString(object, name);
    if (value == NULL) {
        if (!PyErr_ExceptionMatches(PyExc_AttributeError) &&
            !PyErr_ExceptionMatches(PyExc_ValueError)) {
            return -1;
        }
        PyErr_Clear();
        return 0;
    }
    int result = visit(scan, value);
    Py_DECREF(value); /* the object holds it */
    return result;
}

static int
visit_cell(Scan *scan, PyObject *cell)
{
    return visit_attribute(scan, cell, "cell_contents", visit_inside);
}

static int
visit_closure(Scan *scan, PyObject *cells)
{
    return PyTuple_CheckExact(cells) ? visit_items(scan, cells, visit_cell) : 0;
}

/* New reference: what its module has under the name of a function; NULL without
 * an exception if that is nothing. */
static PyObject *
find_by_name(PyObject *function)
{
    PyObject *found = NULL;
    PyObject *name = PyObject_GetAttrString(function, "__qualname__");
    PyObject *module = PyObject_GetAttrString(function, "__module__");
    PyObject *names = NULL;
    if (name != NULL && module != NULL && PyUnicode_Check(module)) {
        PyObject *dot = PyUnicode_FromString(".");
        names = dot != NULL ? PyUnicode_Split(name, dot, -1) : NULL;
        found = names != NULL ? PyImport_GetModule(module) : NULL;
        Py_XDECREF(dot);
    }
    for (Py_ssize_t i = 0; found != NULL && i < PyList_Size(names); i++) {
        core_set(&found, PyObject_GetAttr(found, PyList_GetItem(names, i)));
    }
    Py_XDECREF(names);
    Py_XDECREF(module);
    Py_XDECREF(name);
    PyErr_Clear();
    return found;
}

/* Such a function goes as its name: what it carries stays here, and need not be
 * fit to be pickled. */
static bool
has_name(PyObject *function)
{
    PyObject *found = find_by_name(function);
    Py_XDECREF(found);
    return found == function;
}

static bool
has_content(PyObject *function, const char *name)
{
    PyObject *value = PyObject_GetAttrString(function, name);
    Py_XDECREF(value);
    PyErr_Clear();
    return value != NULL && value != Py_None;
}

/* Functions, methods and partials are often made anew for each task, around the
 * same objects: those are what the tasks share. Of a method its function is not
 * among what is pickled: it is looked up where it arrives. */
static int
visit_carried(Scan *scan, PyObject *object)
{
    const State *state = scan->message->state;
    PyTypeObject *type = Py_TYPE(object);
    if (type == state->function_type) {
        if (!has_content(object, "__closure__") &&
            !has_content(object, "__defaults__")) {
            return 0;
        }
        if (has_name(object)) {
            return 0;
        }
        return visit_attribute(scan, object, "__closure__", visit_closure) <
                           0 ||
                       visit_attribute(scan, object, "__defaults__",
                                       visit_inside) < 0
                   ? -1
                   : 0;
    }
    if (type == state->method_type) {
        return visit_attribute(scan, object, "__self__", visit_inside);
    }
    if (type == state->partial_type) {
        return visit_attribute(scan, object, "func", visit_inside) < 0 ||
                       visit_attribute(scan, object, "args", visit_inside) <
                           0 ||
                       visit_attribute(scan, object, "keywords", visit_inside) <
                           0
                   ? -1
                   : 0;
    }
    return 0;
}

static int
visit_object(Scan *scan, PyObject *object)
{
    intptr_t *task = idmap_find(&scan->message->arguments, object);
    if (task != NULL) {
        *task = *task == scan->task ? *task : SHARED;
        return 0;
    }
    if (idmap_add(&scan->message->arguments, object, scan->task) < 0 ||
        PyList_Append(scan->objects, object) < 0) {
        return -1;
    }
    if (Py_EnterRecursiveCall(" while looking into the functions of tasks") !=
        0) {
        return -1;
    }
    int result = visit_carried(scan, object);
    Py_LeaveRecursiveCall();
    return result;
}

static int
visit(Scan *scan, PyObject *object)
{
    if (is_atom(object)) {
        return 0;
    }
    if (is_container(object)) {
        return visit_container(scan, object, &scan->message->arguments, visit);
    }
    return is_array(object) ? visit_array(scan, object)
                            : visit_object(scan, object);
}

/* A task's own tuple, and its arguments': no object of the user's is one of
 * them. */
static int
visit_task(Scan *scan, PyObject *task)
{
    if (!PyTuple_CheckExact(task)) {
        return visit(scan, task);
    }
    for (Py_ssize_t i = 0; i < PyTuple_Size(task); i++) {
        PyObject *item = PyTuple_GetItem(task, i);
        int result = is_container(item) ? visit_items(scan, item, visit)
                                        : visit(scan, item);
        if (result < 0) {
            return -1;
        }
    }
    return 0;
}

/* New reference: (shared, own, others). */
static PyObject *
divide(const Scan *scan)
{
    PyObject *result = NULL;
    PyObject *shared = PyList_New(0), *own = PyList_New(0);
    if (shared == NULL || own == NULL) {
        goto done;
    }
    for (Py_ssize_t i = 0; i < PyList_Size(scan->objects); i++) {
        PyObject *object = PyList_GetItem(scan->objects, i);
        bool many = scan_is_shared(scan->message, object);
        if (PyList_Append(many ? shared : own, object) < 0) {
            goto done;
        }
    }
    result = PyTuple_Pack(3, shared, own, scan->others);
done:
    Py_XDECREF(shared);
    Py_XDECREF(own);
    return result;
}

PyObject *
scan_tasks(Outgoing *message, PyObject *tasks, PyObject *types)
{
    Scan scan = {message, types, PyList_New(0), PyList_New(0), {NULL, 0, 0}, 0};
    PyObject *result = NULL;
    if (scan.objects == NULL || scan.others == NULL) {
        goto done;
    }
    for (; scan.task < PyList_Size(tasks); scan.task++) {
        if (visit_task(&scan, PyList_GetItem(tasks, scan.task)) < 0) {
            goto done;
        }
    }
    if (siblings_settle(message) == 0) {
        result = divide(&scan);
    }
done:
    idmap_clear(&scan.inside);
    Py_XDECREF(scan.objects);
    Py_XDECREF(scan.others);
    return result;
}

int
scan_init(State *state)
{
    state->function_type =
        (PyTypeObject *)state_import("types", "FunctionType");
    state->method_type = (PyTypeObject *)state_import("types", "MethodType");
    state->partial_type = (PyTypeObject *)state_import("functools", "partial");
    return state->function_type != NULL && state->method_type != NULL &&
                   state->partial_type != NULL
               ? 0
               : -1;
}
