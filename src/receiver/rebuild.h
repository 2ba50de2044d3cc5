/* From a message to the array. */
#ifndef SAMEMAP_REBUILD_H
#define SAMEMAP_REBUILD_H

#include "state.h"

/* samemap._core.rebuild(memory, layout, dtype=None, patches=None): the view. An
 * exception instance or a stand-in in its place when this thread's message
 * takes notes of errors. */
PyObject *rebuild_call(PyObject *module, PyObject *const *args,
                       Py_ssize_t nargs);

#endif
