/* Who owns the memory that an array shows? */
#ifndef SAMEMAP_OWNER_H
#define SAMEMAP_OWNER_H

#include "state.h"

typedef enum {
    OWNER_MEMORY, /* NumPy, bytes or bytearray: never mapped from a file */
    OWNER_MMAP,   /* an mmap.mmap */
    OWNER_OTHER,  /* anything else: only the operating system can tell */
} OwnerKind;

typedef struct {
    OwnerKind kind;
    /* The end of the chain. Borrowed: the array keeps its own chain alive. */
    PyObject *object;
    /* The last array before it, borrowed too: it can always be referenced
     * weakly, which not every owner can (a DLPack capsule). */
    PyObject *last_array;
    /* The np.memmap in the chain that is next to the owner, borrowed, or NULL.
     */
    PyObject *memmap;
    /* A read-only memoryview lies between the array and the owner. */
    bool locked;
} Owner;

/* Follows `.base` from `array`; 0, or -1 with an exception. */
int owner_find(State *state, PyArrayObject *array, Owner *owner);

/* The owner's memory, as its last array shows it: false, and nothing set, where
 * that has gaps. */
bool owner_get_memory(const Owner *owner, char **low, char **high);

/* Finds the type of what NumPy puts between an array and its base: 0 or -1. */
int owner_init(State *state);

#endif
