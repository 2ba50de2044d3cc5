/* Has a task written to memory where nobody else will see it?
 *
 * The private pages of an array that was sent in a memory file are the task's
 * own, and gone with it. With a copy that was so as well; but many a task is
 * meant to fill an array of its caller's.
 */
#ifndef SAMEMAP_LOST_H
#define SAMEMAP_LOST_H

#include "backing.h"

/* One task's, in its thread. */
typedef struct {
    ThreadLink link;
    PyObject *maps; /* list of Backings, owned; NULL while there are none */
} LostWatch;

/* From now on the maps that this thread notes are this task's. */
void lost_begin(State *state, LostWatch *watch);

/* Counts those that were written to. An exception stays as it is. */
void lost_end(State *state, LostWatch *watch);

/* A map of a memory file was made: 0 or -1. */
int lost_note(State *state, Backing *backing);

/* samemap._core.take_lost(): what was counted since it was last asked for. */
PyObject *lost_take(PyObject *module, PyObject *ignored);

#endif
