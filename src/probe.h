/* What does this system give? As the library itself asks for it. */
#ifndef SAMEMAP_PROBE_H
#define SAMEMAP_PROBE_H

#include "core.h"

/* samemap._core.probe(folder=b''): dict. `folder` is where the user wants
 * temporary files. */
PyObject *probe_system(PyObject *module, PyObject *args);

#endif
