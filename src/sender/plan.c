/* Owns the decision how an array travels. One snapshot of the array is taken
 * at the start; nothing is read from it again. */
#include "sender/plan.h"

#include "message.h"
#include "sender/modified.h"
#include "sender/owner.h"
#include "sender/resolve.h"

static int
snapshot(State *state, PyArrayObject *array, Plan *plan)
{
    PyArray_Descr *descr = PyArray_DESCR(array);
    plan->descr = (PyArray_Descr *)Py_NewRef((PyObject *)descr);
    npy_intp itemsize = PyDataType_ELSIZE(descr);
    Layout *layout = &plan->layout;
    npy_intp low, high;

    int typenum = descr->type_num;
    bool plain = typenum >= 0 && typenum < STATE_TYPES &&
                 state->builtin_dtypes[typenum] == (PyObject *)descr;
    layout->typenum = plain ? typenum : LAYOUT_NO_TYPENUM;
    layout->flags =
        (PyArray_ISWRITEABLE(array) ? LAYOUT_WRITEABLE : 0) |
        (PyArray_CHKFLAGS(array, NPY_ARRAY_ALIGNED) ? 0 : LAYOUT_UNALIGNED);
    layout->ndim = PyArray_NDIM(array);
    layout->offset = 0;
    for (int i = 0; i < layout->ndim; i++) {
        layout->shape[i] = PyArray_DIM(array, i);
        layout->strides[i] = PyArray_STRIDE(array, i);
    }
    plan->nbytes = layout_nbytes(layout->ndim, layout->shape, itemsize);
    if (plan->nbytes < 0 ||
        layout_bounds(layout->ndim, layout->shape, layout->strides, itemsize,
                      &low, &high) < 0) {
        PyErr_SetString(PyExc_ValueError,
                        "the strides of the array overflow the address space");
        return -1;
    }
    plan->data = PyArray_BYTES(array);
    plan->low = plan->data + low;
    plan->high = plan->data + high;
    return 0;
}

/* Sets the offset of element [0, 0, ...]. False: an element lies outside the
 * backing, where memory goes on for the rest of the file's last page. */
static bool
set_offset(Plan *plan)
{
    const Mapping *mapping = &plan->backing->mapping;
    char *end = mapping->start + mapping->length;
    if (plan->low == plan->high) {
        /* No element: where it points is of no account (`memmap[:0]`). */
        if (plan->data < mapping->start) {
            plan->data = mapping->start;
        } else if (plan->data > end) {
            plan->data = end;
        }
        plan->low = plan->high = plan->data;
    }
    plan->layout.offset = plan->data - mapping->start;
    return mapping_covers(mapping, plan->low, plan->high);
}

/* Without a map table, the name of the np.memmap that `array` is may tell that
 * joblib made the file: 1, 0, or -1 with an exception. */
static int
has_temporary_name(State *state, PyObject *array)
{
    PyObject *filename, *path = NULL;
    if (!PyObject_TypeCheck(array, state->memmap_type)) {
        return 0;
    }
    filename = PyObject_GetAttr(array, state->str_filename);
    if (filename == NULL) {
        return -1;
    }
    int result = 0;
    if (filename != Py_None) {
        result = PyUnicode_FSConverter(filename, &path)
                     ? reach_route_of(PyBytes_AsString(path)) == ROUTE_TEMPORARY
                     : -1;
    }
    Py_XDECREF(path);
    Py_DECREF(filename);
    return result;
}

/* What is otherwise referable, but not in a result. */
static Reason
backward_reason(const Backing *backing)
{
    const Reach *reach = &backing->reach;
    if (reach->route == ROUTE_TEMPORARY) {
        return REASON_TEMPORARY;
    }
    if (backing->place.foreign && !backing_is_private(backing)) {
        /* The caller finds its own mapping by the token, whatever became of
         * the path since. */
        return reach->path != NULL ? REASON_NONE : reach->reason;
    }
    /* A worker's own descriptor is gone with the worker's array. */
    if (reach->reason == REASON_NONE && reach->fd >= 0 &&
        reach->route == ROUTE_DESCRIPTOR) {
        return REASON_UNREACHABLE;
    }
    return reach->reason;
}

int
plan_mark_sent(const Plan *plan)
{
    if (plan->backing == NULL || !backing_is_private(plan->backing) ||
        plan->patch_is_elements) {
        return 0;
    }
    return modified_mark_sent(plan->backing, plan->low, plan->high,
                              plan->message);
}

static int
collect_patches(Plan *plan)
{
    Modified modified;
    if (modified_collect(plan->backing, plan->low, plan->high, plan->nbytes,
                         plan->message, &modified) < 0) {
        return -1;
    }
    plan->reason = modified.reason;
    plan->patches = modified.patches;
    plan->patch_is_elements = modified.exceed_elements;
    return 0;
}

int
plan_make(State *state, PyArrayObject *array, Direction direction,
          uint64_t message, Plan *plan)
{
    Owner owner;
    plan->reason = REASON_MEMORY;
    plan->backing = NULL;
    plan->descr = NULL;
    plan->patches = NULL;
    plan->patch_is_elements = false;
    plan->message = message;

    if (snapshot(state, array, plan) < 0) {
        return -1;
    }
    if (PyDataType_REFCHK(plan->descr)) {
        plan->reason = REASON_OBJECTS;
        return 0;
    }
    /* NumPy makes items of no bytes ("S0") one byte wide when it builds an
     * array: only its own reduction keeps them. */
    if (PyDataType_ELSIZE(plan->descr) == 0) {
        return 0;
    }
    if (owner_find(state, array, &owner) < 0) {
        return -1;
    }
    if (owner.kind == OWNER_MEMORY) {
        return 0;
    }
    /* Whoever else owns the memory may have given it read-only. */
    if (owner.locked ||
        (owner.kind != OWNER_MMAP &&
         !PyArray_ISWRITEABLE((PyArrayObject *)owner.last_array))) {
        plan->layout.flags |= LAYOUT_LOCKED;
    }
    plan->backing =
        resolve_backing(state, array, &owner, plan->low, plan->high, message);
    if (plan->backing == NULL) {
        return -1;
    }
    /* The check comes first: it may shorten the mapping. */
    if (backing_check(plan->backing, message) < 0) {
        return -1;
    }
    bool inside = set_offset(plan);
    plan->reason = direction == DIRECTION_BACKWARD
                       ? backward_reason(plan->backing)
                       : plan->backing->reach.reason;
    if (plan->reason == REASON_NONE && !inside) {
        plan->reason = REASON_OUTSIDE;
    }
    if (plan->reason == REASON_NO_MAPTABLE && direction == DIRECTION_BACKWARD) {
        int temporary = has_temporary_name(state, owner.last_array);
        plan->reason = temporary == 1 ? REASON_TEMPORARY : plan->reason;
        return temporary < 0 ? -1 : 0;
    }
    if (plan->reason == REASON_NONE && backing_is_private(plan->backing)) {
        return collect_patches(plan);
    }
    return 0;
}

void
plan_clear(Plan *plan)
{
    Py_CLEAR(plan->backing);
    Py_CLEAR(plan->descr);
    Py_CLEAR(plan->patches);
}
