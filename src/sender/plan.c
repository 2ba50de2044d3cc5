/* Owns the decision how an array travels. One snapshot of the array is taken
 * at the start; nothing is read from it again. */
#include "sender/plan.h"

#include "errors.h"
#include "message.h"
#include "sender/owner.h"
#include "os/pagemap.h"
#include "sender/resolve.h"

#include <string.h>
#include <unistd.h>

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

/* Sets the offset of element [0, 0, ...]. False: an element lies outside the
 * backing, where memory goes on for the rest of the file's last page. */
static bool
place(Plan *plan)
{
    const Backing *backing = plan->backing;
    char *end = backing->start + backing->length;
    if (plan->low == plan->high) {
        /* No element: where it points is of no account (`memmap[:0]`). */
        if (plan->data < backing->start) {
            plan->data = backing->start;
        } else if (plan->data > end) {
            plan->data = end;
        }
        plan->low = plan->high = plan->data;
    }
    plan->layout.offset = plan->data - backing->start;
    return backing_covers(backing, plan->low, plan->high);
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
                     ? is_joblib_temporary(PyBytes_AsString(path))
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

/* What of the backing's modified bytes the message has already. */
static Ranges *
get_sent(const Plan *plan)
{
    Backing *backing = plan->backing;
    if (backing->sent_message != plan->message ||
        message_is_implicit(plan->message)) {
        ranges_clear(&backing->sent);
        backing->sent_message = plan->message;
    }
    return &backing->sent;
}

int
plan_mark_sent(const Plan *plan)
{
    if (plan->backing == NULL || !backing_is_private(plan->backing) ||
        plan->elements) {
        return 0;
    }
    return ranges_add(get_sent(plan), plan->low, plan->high);
}

/* Appends (offset, bytes) of [low, high) in the backing: 0 or -1. */
static int
add_patch(PyObject *patches, const Backing *backing, const char *low,
          const char *high)
{
    PyObject *offset = PyLong_FromSsize_t(low - backing->start);
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

/* Appends the modified bytes of `gap`, a part of the view's memory, as long as
 * there are no more than the view's elements have, and adds to *total: 0, or
 * -1 with an exception. */
static int
patch_gap(PyObject *patches, Plan *plan, const Range *gap, npy_intp *total)
{
    const uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
    uintptr_t low = (uintptr_t)gap->low / page * page;
    uintptr_t high = ((uintptr_t)gap->high + page - 1) / page * page;
    PageRange pages;
    int found;
    while ((found = pagemap_next_modified(plan->backing->state->pagemap, low,
                                          high, &pages)) == 1) {
        char *start = (char *)pages.start, *end = (char *)pages.end;
        start = start < gap->low ? gap->low : start;
        end = end > gap->high ? gap->high : end;
        *total += end - start;
        plan->elements = *total > plan->nbytes;
        if (!backing_is_writable(plan->backing)) {
            plan->reason = REASON_MODIFIED;
        }
        if (plan->elements || plan->reason != REASON_NONE) {
            return 0;
        }
        if (add_patch(patches, plan->backing, start, end) < 0) {
            return -1;
        }
        low = pages.end;
    }
    if (found < 0) {
        plan->reason = REASON_NO_PAGEMAP;
    }
    return 0;
}

/* Collects the bytes of the view's memory that are not the file's any more and
 * not in the message yet. */
static int
collect_patches(Plan *plan)
{
    const Ranges *sent = get_sent(plan);
    npy_intp total = 0;
    Range gap = {NULL, plan->low};
    PyObject *patches = PyList_New(0);
    if (patches == NULL) {
        return -1;
    }
    while (plan->reason == REASON_NONE && !plan->elements &&
           ranges_find_gap(sent, gap.high, plan->high, &gap)) {
        if (patch_gap(patches, plan, &gap, &total) < 0) {
            Py_DECREF(patches);
            return -1;
        }
    }
    if (plan->reason == REASON_NONE && !plan->elements &&
        PyList_Size(patches) > 0) {
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
    plan->elements = false;
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
    bool inside = place(plan);
    if (backing_check(plan->backing, message) < 0) {
        return -1;
    }
    plan->reason = direction == BACKWARD ? backward_reason(plan->backing)
                                         : plan->backing->reason;
    if (plan->reason == REASON_NONE && !inside) {
        plan->reason = REASON_OUTSIDE;
    }
    if (plan->reason == REASON_NO_MAPTABLE && direction == BACKWARD) {
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
