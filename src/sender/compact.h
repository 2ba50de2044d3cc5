/* The elements of a view without what lies between them. */
#ifndef SAMEMAP_COMPACT_H
#define SAMEMAP_COMPACT_H

#include "sender/plan.h"

typedef struct {
    /* What is gathered, from the lowest address on: the axes in the order of
     * the memory, those of stride zero left out. */
    Layout source;
    npy_intp nbytes; /* of it */
    /* The view on the gathered bytes: its axes keep their order and sense, and
     * zero strides stay zero. */
    npy_intp offset; /* bytes, of element [0, 0, ...] */
    npy_intp strides[LAYOUT_MAX_DIMS];
} Compact;

/* Of elements that use `used` bytes of the `span` that they lie in, little lies
 * in between: a file may have all of the span. */
static inline bool
compact_is_dense(npy_intp used, npy_intp span)
{
    return span - used <= used / 2;
}

void compact_make(const Plan *plan, Compact *compact);

/* The plan's layout becomes that of the view on the gathered bytes. */
void compact_use(const Compact *compact, Plan *plan);

/* New reference: the bytes, gathered; NULL with MemoryError. */
PyObject *compact_gather(const Compact *compact, const Plan *plan);

#endif
