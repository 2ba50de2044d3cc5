/* Owns the layout of views whose elements are gathered. */
#include "sender/compact.h"

#include <stdlib.h>
#include <string.h>

typedef struct {
    int axis;
    npy_intp length, stride; /* bytes, not negative */
} Axis;

/* The longer stride first; equal ones as they are. */
static int
compare_axes(const void *a, const void *b)
{
    const Axis *first = a, *second = b;
    if (first->stride != second->stride) {
        return first->stride > second->stride ? -1 : 1;
    }
    return first->axis - second->axis;
}

void
compact_make(const Plan *plan, Compact *compact)
{
    const Layout *layout = &plan->layout;
    const npy_intp itemsize = PyDataType_ELSIZE(plan->descr);
    Axis axes[LAYOUT_MAX_DIMS];
    int count = 0;
    for (int i = 0; i < layout->ndim; i++) {
        npy_intp stride = layout->strides[i];
        compact->strides[i] = 0;
        if (layout->shape[i] > 1 && stride != 0) {
            axes[count++] =
                (Axis){i, layout->shape[i], stride < 0 ? -stride : stride};
        }
    }
    qsort(axes, (size_t)count, sizeof(*axes), compare_axes);
    compact->source.ndim = count;
    compact->offset = 0;
    npy_intp stride = itemsize;
    for (int i = count - 1; i >= 0; i--) {
        const Axis *axis = &axes[i];
        bool reversed = layout->strides[axis->axis] < 0;
        compact->source.shape[i] = axis->length;
        compact->source.strides[i] = axis->stride;
        compact->strides[axis->axis] = reversed ? -stride : stride;
        compact->offset += reversed ? (axis->length - 1) * stride : 0;
        stride *= axis->length;
    }
    compact->nbytes = stride;
}

void
compact_use(const Compact *compact, Plan *plan)
{
    plan->layout.offset = compact->offset;
    memcpy(plan->layout.strides, compact->strides,
           (size_t)plan->layout.ndim * sizeof(npy_intp));
}

PyObject *
compact_gather(const Compact *compact, const Plan *plan)
{
    PyObject *bytes = PyBytes_FromStringAndSize(NULL, compact->nbytes);
    if (bytes != NULL) {
        layout_gather(&compact->source, PyDataType_ELSIZE(plan->descr),
                      plan->low, PyBytes_AsString(bytes));
    }
    return bytes;
}
