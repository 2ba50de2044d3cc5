/* What happens in a forked child, before it does anything else. */
#ifndef SAMEMAP_FORK_H
#define SAMEMAP_FORK_H

#include "state.h"

/* samemap._core._after_fork(), which Python calls. */
PyObject *fork_in_child(PyObject *module, PyObject *ignored);

#endif
