/* How one array will travel: decided here, carried out by reduce.c. */
#ifndef SAMEMAP_PLAN_H
#define SAMEMAP_PLAN_H

#include "backing.h"
#include "layout.h"

typedef enum {
    FORWARD,  /* to a worker: what this process maps can be reached */
    BACKWARD, /* a result: this process may be gone when it is read */
} Direction;

typedef struct {
    Reason reason;        /* NONE: by reference */
    Backing *backing;     /* owned; NULL in ordinary memory */
    PyArray_Descr *descr; /* owned */
    PyObject *patches;    /* owned tuple (offset, bytes, ...) or NULL */
    char *data;           /* address of element [0, 0, ...] */
    char *low, *high;     /* addresses that the elements span */
    npy_intp nbytes;      /* of all elements */
    Layout layout;        /* of the view in its backing; set in any case */
} Plan;

/* Decides for `array`. 0, or -1 with an exception: the file has become shorter
 * than the map, the array reaches outside its memory, ... `plan_clear` in
 * both cases. */
int plan_make(State *state, PyArrayObject *array, Direction direction,
              uint64_t message, Plan *plan);
void plan_clear(Plan *plan);

#endif
