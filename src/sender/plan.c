/* Owns the decision how an array travels. One snapshot of the array is taken
 * at the start; nothing is read from it again. */
#include "sender/plan.h"

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

bool
plan_is_shared(const State *state, const Plan *plan)
{
    if (plan->backing == NULL || backing_is_private(plan->backing)) {
        return false;
    }
    return plan->backing->mapping.access & MAPPING_REQUESTED ||
           (plan->memmap != NULL &&
            memmap_is_shared(state, plan->memmap, &plan->backing->header));
}

/* The way of a file for a message that is read when the array may be gone. */
static Reason
lasting_reason(const Reach *reach)
{
    if (reach->route == ROUTE_TEMPORARY) {
        return REASON_TEMPORARY;
    }
    /* A descriptor of this process is gone with its array. */
    if (reach->reason == REASON_NONE && reach->fd >= 0 &&
        reach->route == ROUTE_DESCRIPTOR) {
        return REASON_UNREACHABLE;
    }
    return reach->reason;
}

/* What is otherwise referable, but not in a result. */
static Reason
backward_reason(const Terms *terms, const Plan *plan)
{
    const Backing *backing = plan->backing;
    if (backing->reach.route == ROUTE_TEMPORARY) {
        return REASON_TEMPORARY;
    }
    if (plan->memmap == NULL || !memmap_has_mode(plan->memmap)) {
        return REASON_RESULT;
    }
    /* Where results are copies a worker may write to its file at once, for the
     * next one. */
    if (terms->isolated && !terms->write_through &&
        mapping_writes_through(&backing->mapping)) {
        return REASON_RESULT;
    }
    return lasting_reason(&backing->reach);
}

static Reason
find_reason(const Terms *terms, const Plan *plan)
{
    const Backing *backing = plan->backing;
    if (terms->direction == DIRECTION_BACKWARD) {
        return backward_reason(terms, plan);
    }
    /* What was made to be shared has no path, and a copy would not be shared:
     * it is for the sender to keep it. */
    bool requested = backing->mapping.access & MAPPING_REQUESTED;
    return terms->lasting && !requested ? lasting_reason(&backing->reach)
                                        : backing->reach.reason;
}

/* What is written there is to be seen by others. */
static bool
is_asked_for(const State *state, const Terms *terms, const Plan *plan)
{
    return terms->write_through ||
           (terms->isolated ? plan->backing->mapping.access & MAPPING_REQUESTED
                            : plan_is_shared(state, plan));
}

int
plan_mark_sent(const Plan *plan)
{
    /* Only views on private pages take the patches of others. */
    if (plan->backing == NULL || !backing_is_private(plan->backing) ||
        plan->patch_is_elements || !(plan->layout.flags & LAYOUT_PRIVATE)) {
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

/* On whose pages the view will be, for what goes by reference. */
static int
set_sharing(State *state, const Terms *terms, Plan *plan)
{
    const Mapping *mapping = &plan->backing->mapping;
    bool asked = is_asked_for(state, terms, plan);
    if (mapping_is_private(mapping)) {
        /* Nobody can have written to what is read-only, once that is known. */
        if (collect_patches(plan) < 0 || plan->reason != REASON_NONE ||
            !mapping_is_writable(mapping)) {
            return plan->reason == REASON_NONE && PyErr_Occurred() ? -1 : 0;
        }
    } else if (asked || !mapping_is_writable(mapping)) {
        plan->layout.flags |=
            terms->direction == DIRECTION_BACKWARD ? LAYOUT_OWN : 0;
        return 0;
    }
    bool large = terms->max_nbytes >= 0 && plan->nbytes > terms->max_nbytes;
    plan->layout.flags |= LAYOUT_PRIVATE | (large ? LAYOUT_MAPPED : 0);
    if (terms->isolated) {
        plan->layout.flags |= LAYOUT_ALONE;
        return 0;
    }
    if (!terms->is_deep) {
        return 0;
    }
    /* Several tasks may get to this array. As stock joblib has it: dumped and
     * read-only above the limit; below it, and for an np.memmap's own
     * copy-on-write, one array that aliases no other. */
    if (plan->memmap == NULL && large) {
        plan->layout.flags &= ~(unsigned)LAYOUT_WRITEABLE;
        plan->layout.flags |= LAYOUT_LOCKED;
    } else {
        plan->layout.flags |= LAYOUT_ALONE;
    }
    return 0;
}

/* Finds the memory of the array: 1, 0 when it is ordinary memory, or -1. */
static int
find_memory(State *state, PyArrayObject *array, const Terms *terms,
            Owner *owner, Plan *plan)
{
    MemmapFound found;
    if (owner_find(state, array, owner) < 0) {
        return -1;
    }
    bool mapped = owner->kind != OWNER_MEMORY;
    if (mapped) {
        plan->backing = resolve_backing(state, array, owner, plan->low,
                                        plan->high, terms->message);
        if (plan->backing == NULL) {
            return -1;
        }
    }
    if (memmap_find(state, (PyObject *)array, mapped ? owner->memmap : NULL,
                    mapped ? (PyObject *)plan->backing : Py_None,
                    mapped ? &plan->backing->header : NULL, terms->message,
                    &found) < 0) {
        return -1;
    }
    plan->memmap = found.tuple;
    if (!mapped) {
        owner_get_memory(owner, &plan->memory_low, &plan->memory_high);
    }
    plan->layout.flags |=
        (found.has_mmap ? LAYOUT_HAS_MMAP : 0) |
        (found.is_bare ? LAYOUT_BARE : 0) |
        (Py_TYPE((PyObject *)array) == state->memmap_type ? LAYOUT_MEMMAP : 0);
    return mapped;
}

int
plan_make(State *state, PyArrayObject *array, const Terms *terms, Plan *plan)
{
    Owner owner;
    plan->reason = REASON_MEMORY;
    plan->backing = NULL;
    plan->memmap = NULL;
    plan->descr = NULL;
    plan->memory_low = plan->memory_high = NULL;
    plan->patches = NULL;
    plan->patch_is_elements = false;
    plan->message = terms->message;

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
    int mapped = find_memory(state, array, terms, &owner, plan);
    if (mapped != 1) {
        return mapped;
    }
    /* Whoever else owns the memory may have given it read-only. */
    if (owner.locked ||
        (owner.kind != OWNER_MMAP &&
         !PyArray_ISWRITEABLE((PyArrayObject *)owner.last_array))) {
        plan->layout.flags |= LAYOUT_LOCKED;
    }
    /* The check may find that the file fills less of the mapping: the offset
     * comes after it. */
    if (backing_check(plan->backing, terms->message) < 0) {
        return -1;
    }
    bool inside = set_offset(plan);
    plan->memory_low = plan->backing->mapping.start;
    plan->memory_high = plan->memory_low + plan->backing->mapping.length;
    bool backward = terms->direction == DIRECTION_BACKWARD;
    plan->reason = find_reason(terms, plan);
    if (plan->reason == REASON_NONE && !inside) {
        plan->reason = REASON_OUTSIDE;
    }
    if (plan->reason == REASON_NO_MAPTABLE && backward) {
        int temporary = has_temporary_name(state, owner.last_array);
        plan->reason = temporary == 1 ? REASON_TEMPORARY : plan->reason;
        return temporary < 0 ? -1 : 0;
    }
    return plan->reason == REASON_NONE ? set_sharing(state, terms, plan) : 0;
}

void
plan_clear(Plan *plan)
{
    Py_CLEAR(plan->backing);
    Py_CLEAR(plan->memmap);
    Py_CLEAR(plan->descr);
    Py_CLEAR(plan->patches);
}
