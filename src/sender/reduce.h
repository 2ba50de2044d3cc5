/* From an array to its message. */
#ifndef SAMEMAP_REDUCE_H
#define SAMEMAP_REDUCE_H

#include "sender/plan.h"

/* What a pool was made with: sender/reducer.c. */
typedef struct {
    PyObject_HEAD
    State *state;
    PyObject *stock; /* joblib's reducer for large arrays in memory, or None */
    PyObject *py_max_nbytes; /* as given, for pickling */
    npy_intp max_nbytes;     /* -1: no limit */
    Direction direction;
    bool write_through;
    bool isolated;
    bool lasting;
    int protocol; /* of pickle: what goes by value is NumPy's own reduction for
                   * it; 0: in our format, or whatever is quickest */
    bool strict;
    bool counted; /* in the counters; not for `explain` */
} Reducer;

/* New reference: what a pickler writes for an array (see object.__reduce__). */
PyObject *reduce_array(const Reducer *reducer, PyObject *array);

#endif
