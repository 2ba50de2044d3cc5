/* Owns what people are told: the plan for one array, and the counters. */
#include "sender/describe.h"

#include "errors.h"
#include "sender/plan.h"
#include "sender/results.h"

#include <string.h>

/* Takes over `value` (NULL: an exception is set): 0 or -1. */
static int
put(PyObject *dict, const char *key, PyObject *value)
{
    int result = value != NULL ? PyDict_SetItemString(dict, key, value) : -1;
    Py_XDECREF(value);
    return result;
}

static PyObject *
sizes(int n, const npy_intp *values)
{
    return PyArray_IntTupleFromIntp(n, values);
}

/* What the system puts behind the name of a file that has none any more. */
#define DELETED " (deleted)"

/* New reference: the file's name, also when a message would lead by another
 * way. *unlinked: it is the name that the file had. */
static PyObject *
find_name(State *state, const Backing *backing, bool *unlinked)
{
    MapEntry entry;
    const Reach *reach = &backing->reach;
    uintptr_t start = (uintptr_t)backing->mapping.start;
    *unlinked = false;
    if ((reach->reason == REASON_NONE && reach->route != ROUTE_DESCRIPTOR) ||
        maptable_find(&state->maptable, start,
                      start + (uintptr_t)backing->mapping.length,
                      &entry) != 1) {
        return PyUnicode_DecodeFSDefault(reach_path(reach));
    }
    size_t length = strlen(entry.path), suffix = strlen(DELETED);
    *unlinked =
        length > suffix && strcmp(entry.path + length - suffix, DELETED) == 0;
    return PyUnicode_DecodeFSDefaultAndSize(
        entry.path, (Py_ssize_t)(*unlinked ? length - suffix : length));
}

static int
put_backing(PyObject *dict, const Backing *backing)
{
    bool unlinked;
    const Reach *reach = &backing->reach;
    const Mapping *mapping = &backing->mapping;
    PyObject *name = find_name(backing->state, backing, &unlinked);
    const char *route = reach->reason != REASON_NONE       ? ""
                        : reach->route == ROUTE_DESCRIPTOR ? "descriptor"
                                                           : "path";
    const char *access = mapping_is_private(mapping) ? "private" : "shared";
    if (put(dict, "path", name) < 0 ||
        put(dict, "unlinked", PyBool_FromLong(unlinked)) < 0 ||
        put(dict, "route", PyUnicode_FromString(route)) < 0 ||
        put(dict, "identity",
            reach->has_id ? errors_format_id(&reach->id)
                          : PyUnicode_FromString("unknown")) < 0 ||
        put(dict, "sharing", PyUnicode_FromString(access)) < 0 ||
        put(dict, "map_writable",
            PyBool_FromLong(mapping_is_writable(mapping))) < 0 ||
        put(dict, "map_offset",
            PyLong_FromUnsignedLongLong(mapping->file_offset)) < 0 ||
        put(dict, "map_length", PyLong_FromSsize_t(mapping->length)) < 0) {
        return -1;
    }
    return 0;
}

/* Bytes of modified pages that go along with the reference. */
static npy_intp
count_patches(const Plan *plan)
{
    npy_intp nbytes = plan->patch_is_elements ? plan->nbytes : 0;
    Py_ssize_t n = plan->patches != NULL ? PyTuple_Size(plan->patches) : 0;
    for (Py_ssize_t i = 1; i < n; i += 2) {
        nbytes += PyBytes_Size(PyTuple_GetItem(plan->patches, i));
    }
    return nbytes;
}

/* Who sees what a task writes. */
static const char *
find_readers(const State *state, const Plan *plan)
{
    bool by_reference = plan->reason == REASON_NONE;
    if (!(plan->layout.flags & LAYOUT_WRITEABLE) ||
        (!by_reference && plan_is_shared(state, plan))) {
        return "none";
    }
    if (!by_reference || plan->layout.flags & LAYOUT_PRIVATE) {
        return "task";
    }
    return plan->backing->mapping.access & MAPPING_REQUESTED ? "shared"
                                                             : "file";
}

static int
put_plan(PyObject *dict, const State *state, const Plan *plan)
{
    const Layout *layout = &plan->layout;
    bool has_file =
        plan->backing != NULL && plan->backing->place.py_token != NULL;
    if (put(dict, "reason", PyUnicode_FromString(reason_key(plan->reason))) <
            0 ||
        put(dict, "why", PyUnicode_FromString(reason_sentence(plan->reason))) <
            0 ||
        put(dict, "dtype", Py_NewRef((PyObject *)plan->descr)) < 0 ||
        put(dict, "shape", sizes(layout->ndim, layout->shape)) < 0 ||
        put(dict, "strides", sizes(layout->ndim, layout->strides)) < 0 ||
        put(dict, "writeable",
            PyBool_FromLong(layout->flags & LAYOUT_WRITEABLE)) < 0 ||
        put(dict, "nbytes", PyLong_FromSsize_t(plan->nbytes)) < 0 ||
        put(dict, "writes", PyUnicode_FromString(find_readers(state, plan))) <
            0) {
        return -1;
    }
    if (!has_file) {
        return 0;
    }
    if (put(dict, "offset", PyLong_FromSsize_t(layout->offset)) < 0 ||
        put(dict, "modified_nbytes", PyLong_FromSsize_t(count_patches(plan))) <
            0) {
        return -1;
    }
    return put_backing(dict, plan->backing);
}

/* The plan for sending `array` to a worker: 0, or -1 with an exception. */
static int
make_plan(PyObject *module, PyObject *array, Plan *plan)
{
    State *state = PyModule_GetState(module);
    if (!PyArray_Check(array)) {
        PyErr_Format(PyExc_TypeError, "expected an array, not %R",
                     (PyObject *)Py_TYPE(array));
        return -1;
    }
    Terms terms = {
        .direction = DIRECTION_FORWARD,
        .max_nbytes = -1,
        .message = outgoing_number(outgoing_current(state)),
    };
    if (plan_make(state, (PyArrayObject *)array, &terms, plan) < 0) {
        plan_clear(plan);
        return -1;
    }
    return 0;
}

PyObject *
describe_array(PyObject *module, PyObject *array)
{
    Plan plan;
    if (make_plan(module, array, &plan) < 0) {
        return NULL;
    }
    PyObject *dict = PyDict_New();
    if (dict != NULL && put_plan(dict, PyModule_GetState(module), &plan) < 0) {
        Py_CLEAR(dict);
    }
    plan_clear(&plan);
    return dict;
}

/* By its size alone. */
static bool
will_be_mapped(const Outgoing *message, PyArrayObject *array)
{
    return results_are_mapped(message, array) ||
           (message->export_min >= 0 &&
            PyArray_NBYTES(array) > message->export_min &&
            !PyDataType_REFCHK(PyArray_DESCR(array)));
}

PyObject *
describe_is_mapped(PyObject *module, PyObject *array)
{
    Plan plan;
    const Outgoing *message = outgoing_current(PyModule_GetState(module));
    if (message != NULL && PyArray_Check(array) &&
        will_be_mapped(message, (PyArrayObject *)array)) {
        Py_RETURN_TRUE;
    }
    if (make_plan(module, array, &plan) < 0) {
        if (!PyErr_ExceptionMatches(PyExc_OSError)) {
            return NULL;
        }
        /* Its file can't be used: the array's own reduction refuses it. */
        PyErr_Clear();
        Py_RETURN_TRUE;
    }
    bool mapped = plan.reason != REASON_MEMORY && plan.reason != REASON_OBJECTS;
    plan_clear(&plan);
    return PyBool_FromLong(mapped);
}

static PyObject *
count_tuple(const Count *counter)
{
    return Py_BuildValue("KK", (unsigned long long)counter->arrays,
                         (unsigned long long)counter->bytes);
}

PyObject *
describe_counts(PyObject *module, PyObject *Py_UNUSED(ignored))
{
    State *state = PyModule_GetState(module);
    PyObject *dict = PyDict_New();
    if (dict == NULL ||
        put(dict, "by reference", count_tuple(&state->by_reference)) < 0) {
        goto error;
    }
    for (int reason = REASON_NONE + 1; reason < REASON_COUNT; reason++) {
        if (put(dict, reason_key((Reason)reason),
                count_tuple(&state->by_value[reason])) < 0) {
            goto error;
        }
    }
    return dict;

error:
    Py_XDECREF(dict);
    return NULL;
}
