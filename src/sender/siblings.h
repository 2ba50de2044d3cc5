/* Which arguments of a batch show the same memory?
 *
 * In its task such arrays are to alias as in the caller. Before any of them is
 * written it has to be known whether one file will have them all.
 */
#ifndef SAMEMAP_SIBLINGS_H
#define SAMEMAP_SIBLINGS_H

#include "sender/outgoing.h"

/* Those of one owner. */
typedef struct Siblings {
    npy_intp arrays;
    intptr_t task;    /* the last one that has one of them */
    bool is_together; /* some task has two of them, or may have */
    bool is_deep;     /* an object leads to one more */
    bool has_gaps; /* the owner has, so each of them gets a file of its own */
    /* What the large ones span: those that go with all that they span, and
     * those with wide gaps. */
    char *dense_low, *dense_high, *sparse_low, *sparse_high;
} Siblings;

/* Task number `task` has the array as an argument, as the first that does or,
 * if `again`, as the second: 0, or -1 with an exception. */
int siblings_note(Outgoing *message, PyArrayObject *array, intptr_t task,
                  bool again);

/* All arguments have been noted: 0, or -1 with an exception. Where none of them
 * is large nothing more is found out. */
int siblings_settle(Outgoing *message);

/* An object, which is being written, leads to an array that is no argument: 0,
 * or -1 with an exception. */
int siblings_meet(Outgoing *message, PyArrayObject *array);

/* A file of the owner's memory will have all of [low, high). */
bool siblings_cover(const Outgoing *message, const void *last_array,
                    const char *low, const char *high);

/* Some task gets some of them in files of their own: what is written to one
 * isn't seen in another. */
bool siblings_are_apart(const Outgoing *message, const void *last_array);

void siblings_clear(Outgoing *message);

#endif
