/* Owns the decision how an array travels. One snapshot of the array is taken
 * at the start; nothing is read from it again. */
#include "plan.h"

#include "errors.h"
#include "owner.h"
#include "pagemap.h"
#include "registry.h"

#include <string.h>
#include <unistd.h>

/* Modified pages go along up to the size of the view or this, in bytes. */
#define PATCHES_MAX (1 << 20)

#define JOBLIB_FOLDER "joblib_memmapping_folder_"

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

/* Offset of element [0, 0, ...], and that all elements lie in the backing. */
static int
place(Plan *plan)
{
    const Backing *backing = plan->backing;
    char *data = plan->data, *end = backing->start + backing->length;
    if (plan->low == plan->high) {
        /* No element: where it points is of no account (`memmap[:0]`). */
        data = data < backing->start ? backing->start : data > end ? end : data;
        plan->data = plan->low = plan->high = data;
    } else if (plan->low < backing->start || plan->high > end) {
        PyErr_Format(PyExc_ValueError,
                     "the array reaches outside the memory of its base: bytes "
                     "%zd to %zd of %zd",
                     (Py_ssize_t)(plan->low - backing->start),
                     (Py_ssize_t)(plan->high - backing->start),
                     (Py_ssize_t)backing->length);
        return -1;
    }
    plan->layout.offset = plan->data - backing->start;
    return 0;
}

/* joblib's temporary files are in folders of this name, for every user. */
static bool
is_joblib_temporary(const char *path)
{
    const char *last = strrchr(path, '/');
    if (last == NULL) {
        return false;
    }
    const char *folder = last;
    while (folder > path && folder[-1] != '/') {
        folder--;
    }
    return strncmp(folder, JOBLIB_FOLDER, strlen(JOBLIB_FOLDER)) == 0;
}

/* What is otherwise referable, but not in a result. */
static Reason
backward_reason(const Backing *backing)
{
    const char *path = backing_path(backing);
    if (is_joblib_temporary(path)) {
        return REASON_TEMPORARY;
    }
    if (backing->foreign && !backing_is_private(backing)) {
        /* The caller finds its own mapping by the token, whatever became of
         * the path since. */
        return backing->locator != NULL ? REASON_NONE : backing->reason;
    }
    /* A worker's own descriptor is gone with the worker's array. */
    if (backing->reason == REASON_NONE && backing->fd >= 0 &&
        strncmp(path, "/proc/", 6) == 0) {
        return REASON_UNREACHABLE;
    }
    return backing->reason;
}

/* Appends (offset, bytes) of the modified page bytes in `range`. */
static int
add_patch(PyObject *patches, const Plan *plan, const PageRange *range)
{
    char *low = (char *)range->start, *high = (char *)range->end;
    low = low < plan->low ? plan->low : low;
    high = high > plan->high ? plan->high : high;
    PyObject *offset = PyLong_FromSsize_t(low - plan->backing->start);
    PyObject *bytes = PyBytes_FromStringAndSize(low, high - low);
    int result = -1;
    if (offset != NULL && bytes != NULL &&
        PyList_Append(patches, offset) == 0 &&
        PyList_Append(patches, bytes) == 0) {
        result = 0;
    }
    Py_XDECREF(offset);
    Py_XDECREF(bytes);
    return result;
}

/* Collects the pages of the view that are not the file's any more. */
static int
collect_patches(Plan *plan)
{
    const uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
    uintptr_t low = (uintptr_t)plan->low / page * page;
    uintptr_t high = ((uintptr_t)plan->high + page - 1) / page * page;
    npy_intp limit = plan->nbytes > PATCHES_MAX ? plan->nbytes : PATCHES_MAX;
    npy_intp total = 0;
    PageRange range;
    int found;

    PyObject *patches = PyList_New(0);
    if (patches == NULL) {
        return -1;
    }
    while ((found = pagemap_next_modified(low, high, &range)) == 1) {
        total += (npy_intp)(range.end - range.start);
        /* The pages at both ends count whole; the view may lie inside one. */
        if (!backing_is_writable(plan->backing) ||
            total > limit + 2 * (npy_intp)page) {
            plan->reason = REASON_MODIFIED;
            break;
        }
        if (add_patch(patches, plan, &range) < 0) {
            Py_DECREF(patches);
            return -1;
        }
        low = range.end;
    }
    if (found < 0) {
        plan->reason = REASON_NO_PAGEMAP;
    } else if (found == 0 && PyList_Size(patches) > 0) {
        plan->patches = PyList_AsTuple(patches);
    }
    Py_DECREF(patches);
    return PyErr_Occurred() ? -1 : 0;
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
    if (owner.locked) {
        plan->layout.flags |= LAYOUT_LOCKED;
    }
    plan->backing =
        registry_find(state, array, &owner, plan->low, plan->high, message);
    if (plan->backing == NULL || place(plan) < 0 ||
        backing_check(plan->backing, message) < 0) {
        return -1;
    }
    plan->reason = direction == BACKWARD ? backward_reason(plan->backing)
                                         : plan->backing->reason;
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
