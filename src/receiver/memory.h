/* What a view is built on: some or all of the bytes that its offsets count in.
 */
#ifndef SAMEMAP_MEMORY_H
#define SAMEMAP_MEMORY_H

#include "backing.h"

/* All zero: none. */
typedef struct {
    PyObject *owner;    /* owned: mmap.mmap, bytes or bytearray */
    Backing *backing;   /* owned: that of a mapping; NULL: copied bytes */
    char *data;         /* address of the byte at offset `low` */
    npy_intp low, high; /* the offsets that are there */
    bool writable;
    /* Owned: the base of views in an np.memmap, and (only an address) the tuple
     * that it was made for; or NULL. */
    PyObject *root;
    const void *root_tuple;
} Memory;

/* All of an mmap.mmap that is in the registry, or all of bytes or a bytearray:
 * 0, or -1 with an exception. */
int memory_of(State *state, PyObject *owner, Memory *memory);

/* New bytes for the offsets [low, high), to be filled, of the same alignment as
 * those of a mapping: 0 or -1. */
int memory_allocate(npy_intp low, npy_intp high, Memory *memory);

/* The bytes still are where they were: an mmap.mmap can be closed and resized
 * by whoever gets to it. */
bool memory_is_there(const Memory *memory);

/* `other`, which has none, becomes the same memory. */
void memory_share(const Memory *memory, Memory *other);

void memory_clear(Memory *memory);

static inline char *
memory_at(const Memory *memory, npy_intp offset)
{
    assert(offset >= memory->low && offset <= memory->high);
    return memory->data + (offset - memory->low);
}

#endif
