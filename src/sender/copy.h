/* An exact copy of an array's bytes, for a message. */
#ifndef SAMEMAP_COPY_H
#define SAMEMAP_COPY_H

#include "sender/plan.h"

/* New reference: bytes (bytearray when `writable`) that stand for the backing;
 * sets plan->layout to the view in them. NULL with an exception; the memory of
 * a truncated file gives BackingTruncatedError, not SIGBUS. */
PyObject *copy_view(State *state, Plan *plan, bool writable);

/* New reference: bytes, those of all elements in C order; NULL as above. */
PyObject *copy_elements(State *state, const Plan *plan);

/* The array can be read: 0, or -1 with an exception, as a part of its file is
 * gone. */
int copy_check(State *state, const Plan *plan);

/* The strides of elements that lie in C order without gaps. */
void copy_set_c_strides(Layout *layout, npy_intp itemsize);

#endif
