/* Which bytes of a private map are not the file's any more? */
#ifndef SAMEMAP_MODIFIED_H
#define SAMEMAP_MODIFIED_H

#include "backing.h"

typedef struct {
    Reason reason;        /* why they can't go along; NONE: they can */
    PyObject *patches;    /* owned tuple (offset, bytes, ...), NULL for none */
    bool exceed_elements; /* they are more than `limit`: none was collected */
} Modified;

/* Collects the modified bytes of [low, high) in `backing`, a private map, that
 * are not in the message yet; at most `limit` bytes. 0, or -1 with an
 * exception. */
int modified_collect(Backing *backing, char *low, char *high, npy_intp limit,
                     uint64_t message, Modified *modified);

/* [low, high) is in the message: views that come later leave it out. 0, or -1
 * with an exception. */
int modified_mark_sent(Backing *backing, char *low, char *high,
                       uint64_t message);

/* For a backing that dies. */
void modified_clear(Backing *backing);

#endif
