/* The private memory of a task. */
#ifndef SAMEMAP_PIECES_H
#define SAMEMAP_PIECES_H

#include "receiver/task.h"

/* Makes the memory for the task's items on private mappings: 0 or -1. */
int pieces_make(Task *task);

/* Fills *memory, which has none, with that for [low, high) of `source` in the
 * task that this thread makes ready now: 1, 0 when there is no such task, or -1
 * with an exception. */
int pieces_get(State *state, Source *source, npy_intp low, npy_intp high,
               Memory *memory);

#endif
