/* The private memory of a task. */
#ifndef SAMEMAP_PIECES_H
#define SAMEMAP_PIECES_H

#include "receiver/task.h"

/* Makes the memory for the task's items on private mappings: 0 or -1. */
int pieces_make(Task *task);

/* Borrowed: the memory for [low, high) of `source` in the task that this thread
 * makes ready now; NULL with an exception, or without one when there is no such
 * task. */
Memory *pieces_get(State *state, Source *source, npy_intp low, npy_intp high);

#endif
