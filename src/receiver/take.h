/* A task takes its arguments: what it writes there is its own. */
#ifndef SAMEMAP_TAKE_H
#define SAMEMAP_TAKE_H

#include "state.h"

/* samemap._core.run(function, args, kwargs): calls the function with an array
 * for each Pending in its arguments, in exact lists, tuples and dicts too,
 * which are then new ones. One Pending becomes one array, one container one
 * container, and what holds no Pending stays the object that it is. Views of
 * one private mapping share memory as the sender's do. All of it lives as long
 * as the call, if nobody keeps it. */
PyObject *take_run(PyObject *module, PyObject *args);

#endif
