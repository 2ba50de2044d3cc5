/* From a message to the array. */
#ifndef SAMEMAP_REBUILD_H
#define SAMEMAP_REBUILD_H

#include "state.h"

/* samemap._core.rebuild: see receiver/view.h. */
PyObject *rebuild_call(PyObject *module, PyObject *const *args,
                       Py_ssize_t nargs);

#endif
