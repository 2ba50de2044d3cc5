/* Which memory file has the bytes of an array in ordinary memory?
 *
 * One for all views of the memory that one array owns, filled where views need
 * it; and one for the elements of a view that has wide gaps. It is used again
 * for later messages as long as nobody has written to the memory. A byte of it
 * is written once: readers have it mapped privately, and in pages that they
 * have not written to would see it change.
 */
#ifndef SAMEMAP_IMAGE_H
#define SAMEMAP_IMAGE_H

#include "sender/plan.h"

extern PyType_Spec image_spec;

/* New reference: the Export that has the elements of `array`, as they are now;
 * the plan's layout becomes that of the view on it. The message holds it.
 * Without an exception NULL, and *reason: there is none to be had. */
PyObject *image_find(Outgoing *message, PyArrayObject *array, Plan *plan,
                     Reason *reason);

/* The same if there is one for other views of this message already; NULL
 * without an exception, if not. */
PyObject *image_join(Outgoing *message, PyArrayObject *array, Plan *plan);

/* samemap._core.forget_images(): what was made is not used for new messages. */
PyObject *image_forget_all(PyObject *module, PyObject *ignored);

/* In a forked child: they are its parent's. */
void image_after_fork(State *state);

/* For a state that dies. */
void image_clear_all(State *state);

#endif
