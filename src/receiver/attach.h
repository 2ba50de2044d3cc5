/* From a backing in a message to the mapping in this process. */
#ifndef SAMEMAP_ATTACH_H
#define SAMEMAP_ATTACH_H

#include "state.h"

/* samemap._core.attach: the mmap.mmap that the message names; an exception
 * instance in its place when this thread's message takes notes of errors. */
PyObject *attach_call(PyObject *module, PyObject *args);

#endif
