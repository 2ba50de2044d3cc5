/* How one array will travel: decided here, carried out by reduce.c. */
#ifndef SAMEMAP_PLAN_H
#define SAMEMAP_PLAN_H

#include "backing.h"
#include "sender/outgoing.h"
#include "wire/layout.h"

typedef enum {
    DIRECTION_FORWARD,  /* to a worker: what this process maps can be reached */
    DIRECTION_BACKWARD, /* a result: this process may be gone when it is read */
} Direction;

/* What the sender has been told, and where it is. */
typedef struct {
    Direction direction;
    bool is_deep; /* several tasks may get to the array, by ways that nobody
                     sees */
    bool write_through; /* writable maps are shared, whoever made them */
    bool isolated;      /* each array is its reader's own, as a copy would be */
    bool lasting;       /* read when the arrays may be gone: by a path only */
    npy_intp max_nbytes; /* joblib sends larger ones read-only; -1: no limit */
    uint64_t message;    /* its number */
} Terms;

typedef struct {
    Reason reason;        /* NONE: by reference */
    Backing *backing;     /* owned; NULL in ordinary memory */
    PyObject *memmap;     /* owned: see wire/memmap.h; NULL without np.memmap */
    PyArray_Descr *descr; /* owned */
    PyObject *patches;    /* owned tuple (offset, bytes, ...) or NULL */
    bool patch_is_elements; /* modified, but its own bytes are fewer than those
                             * of the modified pages: they go along instead */
    uint64_t message;       /* as the terms' */
    char *data;             /* address of element [0, 0, ...] */
    char *low, *high;       /* addresses that the elements span */
    char *memory_low, *memory_high; /* the owner's memory, all of which can be
                                     * read; both NULL: unknown */
    npy_intp nbytes;                /* of all elements */
    Layout layout; /* of the view in its backing; set in any case */
} Plan;

/* Decides for `array`. 0, or -1 with an exception: the file has become shorter
 * than the map, its strides overflow, ... `plan_clear` in both cases. */
int plan_make(State *state, PyArrayObject *array, const Terms *terms,
              Plan *plan);
void plan_clear(Plan *plan);

/* What a task writes there is meant for others too: as np.memmap's mode says,
 * or as the memory was made to be. */
bool plan_is_shared(const State *state, const Plan *plan);

/* The patches of a plan are in its message: those of later views leave them
 * out. 0, or -1 with an exception. */
int plan_mark_sent(const Plan *plan);

#endif
