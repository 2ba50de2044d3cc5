/* Owns the copying of arrays that can't be referenced.
 *
 * Exact: NumPy's own pickle brings a byte-swapped array into native order and
 * a copy of records loses their padding. Here bytes are bytes. The copy starts
 * at an address of the same alignment, so that ALIGNED stays as it is.
 */
#include "sender/copy.h"

#include "errors.h"
#include "os/pagemap.h"

#include <string.h>

#define ALIGNMENT 16 /* of what malloc returns, and the data of bytes */

void
copy_set_c_strides(Layout *layout, npy_intp itemsize)
{
    npy_intp stride = itemsize;
    for (int i = layout->ndim - 1; i >= 0; i--) {
        layout->strides[i] = stride;
        stride *= layout->shape[i];
    }
}

int
copy_check(State *state, const Plan *plan)
{
    const Backing *backing = plan->backing;
    if (backing == NULL ||
        pagemap_readable((uintptr_t)plan->low, (uintptr_t)plan->high)) {
        return 0;
    }
    const Mapping *mapping = &backing->mapping;
    errors_set_truncated(
        state, reach_path(&backing->reach),
        (int64_t)mapping->file_offset + (plan->high - mapping->start), 0);
    return -1;
}

PyObject *
copy_elements(State *state, const Plan *plan)
{
    if (copy_check(state, plan) < 0) {
        return NULL;
    }
    PyObject *bytes = PyBytes_FromStringAndSize(NULL, plan->nbytes);
    if (bytes != NULL) {
        layout_gather(&plan->layout, PyDataType_ELSIZE(plan->descr), plan->data,
                      PyBytes_AsString(bytes));
    }
    return bytes;
}

PyObject *
copy_view(State *state, Plan *plan, bool writable)
{
    Layout *layout = &plan->layout;
    npy_intp itemsize = PyDataType_ELSIZE(plan->descr);
    npy_intp span = plan->high - plan->low;
    npy_intp pad = (npy_intp)((uintptr_t)plan->low % ALIGNMENT);
    /* A view without gaps keeps its strides; one that overlaps itself (a
     * broadcast) is smaller as it is. */
    bool as_it_is = span <= plan->nbytes;
    npy_intp size = pad + (as_it_is ? span : plan->nbytes);

    if (copy_check(state, plan) < 0) {
        return NULL;
    }
    PyObject *copy = writable ? PyByteArray_FromStringAndSize(NULL, size)
                              : PyBytes_FromStringAndSize(NULL, size);
    if (copy == NULL) {
        return NULL;
    }
    char *target =
        writable ? PyByteArray_AsString(copy) : PyBytes_AsString(copy);
    memset(target, 0, (size_t)pad);
    target += pad;
    if (as_it_is) {
        memcpy(target, plan->low, (size_t)span);
        layout->offset = pad + (plan->data - plan->low);
    } else {
        layout_gather(layout, itemsize, plan->data, target);
        copy_set_c_strides(layout, itemsize);
        layout->offset = pad;
    }
    return copy;
}
