/* An array that each task of a batch makes its own when it starts. */
#ifndef SAMEMAP_PENDING_H
#define SAMEMAP_PENDING_H

#include "receiver/view.h"

extern PyType_Spec pending_spec;

/* Stands in the arguments of tasks where the array will be; several tasks may
 * hold the same one. Nothing in it changes once it is made. */
typedef struct {
    PyObject_HEAD
    State *state;
    View view;        /* unless it is a call; on bytes: a copy for each task */
    PyObject *finish; /* (function, object): function(array, object) is what the
                       * task gets; or NULL */
    /* A function, for an object that each task makes by calling it; or NULL. */
    PyObject *call;
    /* Its arguments, a tuple, in which other arrays may be pending. */
    PyObject *args;
} Pending;

/* samemap._core.pending(memory, layout, dtype=None, patches=None, finish=None),
 * the first four as for rebuild. */
PyObject *pending_view(PyObject *module, PyObject *const *args,
                       Py_ssize_t nargs);

/* samemap._core.pending_call(function, *args). */
PyObject *pending_call(PyObject *module, PyObject *args);

#endif
