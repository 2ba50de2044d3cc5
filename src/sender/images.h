/* Which memory file has the bytes of an array in ordinary memory? */
#ifndef SAMEMAP_IMAGES_H
#define SAMEMAP_IMAGES_H

#include "sender/plan.h"

/* New reference: the Export that has the elements of `array`, as they are now;
 * the plan's layout becomes that of the view on it. The message holds it.
 * Without an exception NULL, and *reason: there is none to be had. */
PyObject *images_find(Outgoing *message, PyArrayObject *array, Plan *plan,
                      Reason *reason);

/* The same if there is one for other views of this message, or will be; NULL
 * without an exception, if not. */
PyObject *images_join(Outgoing *message, PyArrayObject *array, Plan *plan,
                      Reason *reason);

/* samemap._core.forget_images(): what was made is not used for new messages. */
PyObject *images_forget(PyObject *module, PyObject *ignored);

/* In a forked child: they are its parent's. */
void images_after_fork(State *state);

/* For a state that dies. */
void images_clear(State *state);

#endif
