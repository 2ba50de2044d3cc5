/* Memory that is made to be shared with other processes. */
#ifndef SAMEMAP_SHARED_H
#define SAMEMAP_SHARED_H

#include "state.h"

/* samemap._core.shared_memory(nbytes, data=None): new reference to an
 * mmap.mmap, which every process that gets an array in it maps as well. */
PyObject *shared_memory(PyObject *module, PyObject *args);

#endif
