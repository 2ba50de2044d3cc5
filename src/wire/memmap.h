/* What an np.memmap is besides an array, in a message. */
#ifndef SAMEMAP_MEMMAP_H
#define SAMEMAP_MEMMAP_H

#include "state.h"

/* What the last view of a map had, for the next one to use again. Writer:
 * wire/memmap.c. */
typedef struct {
    /* Owned: what was sent, which the pickler memoises; or NULL. */
    PyObject *tuple;
    /* Owned: what is copied for each that is rebuilt, {filename, offset, mode,
     * _mmap: None}; or NULL. It is good for these three, borrowed from it. */
    PyObject *dict;
    PyObject *filename, *offset, *mode;
} MemmapHeader;

/* New reference: what a message names for an np.memmap in the place of `owner`,
 * the Backing or the bytes that hold its memory; NULL with an exception.
 * *has_mmap: its `_mmap` is the mapping. `kept`: that of the backing, or
 * NULL. */
PyObject *memmap_encode(State *state, PyObject *memmap, PyObject *owner,
                        MemmapHeader *kept, bool *has_mmap);

/* Borrowed: the owner in `memory`, the first half of a message; `memory` itself
 * if it is for no np.memmap. */
PyObject *memmap_owner(PyObject *memory);

/* Makes an np.memmap of what was built as State.bare_memmap_type, as `memory`
 * says; `map` becomes its `_mmap` unless it is NULL. 0, or -1. */
int memmap_finish(State *state, PyObject *array, PyObject *memory,
                  MemmapHeader *kept, PyObject *map);

/* Forgets what holds a reference to the backing itself. */
void memmap_forget(MemmapHeader *kept);
void memmap_clear(MemmapHeader *kept);

#endif
