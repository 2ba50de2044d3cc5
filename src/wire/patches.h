/* What of a private mapping is not the file's: bytes that travel beside a
 * reference.
 *
 *   patches = (where, bytes, where, bytes, ...)
 *
 *   where   int: bytes from the mapping's start. The patch is good for all
 *           views of the mapping; where patches of one message overlap, they
 *           are the same
 *           None: the bytes are those of the elements of the view that they
 *           come with, in C order
 */
#ifndef SAMEMAP_PATCHES_H
#define SAMEMAP_PATCHES_H

#include "core.h"

typedef struct {
    npy_intp low, high; /* offsets in the mapping */
    PyObject *bytes;    /* owned */
    bool applied;       /* by patches_apply_new */
} Patch;

/* Sorted, not overlapping. All zero: none. */
typedef struct {
    Patch *items;
    size_t count, room;
} Patches;

/* Appends (offset, bytes) to the list `parts` of a message: 0 or -1. */
int patches_encode(PyObject *parts, npy_intp offset, const char *bytes,
                   npy_intp size);

/* New reference: patches for one view, made of all its elements; NULL. Steals
 * `elements` (NULL with an exception is passed on). */
PyObject *patches_of_elements(PyObject *elements);

/* Adds those of a message to `set`, for a mapping of `length` bytes. *elements
 * becomes the bytes that are the view's own, borrowed, or NULL. 0, or -1 with
 * TypeError, ValueError or MemoryError. */
int patches_decode(PyObject *parts, npy_intp length, Patches *set,
                   PyObject **elements);

/* Writes what of the set lies in [low, high) to memory that shows the mapping
 * from `low` on. */
void patches_apply(const Patches *set, npy_intp low, npy_intp high,
                   char *memory);

/* Writes those of the set that have some of [low, high) to memory that shows
 * the mapping from its start on, each once: the memory may be in use by then.
 */
void patches_apply_new(Patches *set, npy_intp low, npy_intp high, char *memory);

/* The memory is another one now. */
void patches_renew(Patches *set);

void patches_clear(Patches *set);

#endif
