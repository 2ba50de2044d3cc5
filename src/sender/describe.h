/* How an array will travel, as Python data, and the counters. */
#ifndef SAMEMAP_DESCRIBE_H
#define SAMEMAP_DESCRIBE_H

#include "state.h"

/* samemap._core.describe(array): dict; is_mapped(array):
 * bool, true when its memory belongs to a mapping; counts(): dict. */
PyObject *describe_array(PyObject *module, PyObject *array);
PyObject *describe_is_mapped(PyObject *module, PyObject *array);
PyObject *describe_counts(PyObject *module, PyObject *ignored);

#endif
