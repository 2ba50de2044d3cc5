/* Which arrays of a message of results go by memory files, and by which? */
#ifndef SAMEMAP_RESULTS_H
#define SAMEMAP_RESULTS_H

#include "sender/outgoing.h"
#include "sender/plan.h"

/* Looks for large arrays in `results`, through lists, tuples and dicts, and
 * writes the memory files for them: one for views that touch each other. From
 * now on results_memory works. 0, or -1 with an exception. */
int results_collect(Outgoing *message, PyObject *results);

/* New reference: the file that has the elements of `plan`, which gets their
 * place there. Without an exception NULL: the array goes by value, and *reason
 * says why, or is left as it is for one that isn't large. */
PyObject *results_memory(Outgoing *message, PyObject *array, Plan *plan,
                         Reason *reason);

/* The memory of `array`, a result or a part of one, will be a map in the
 * caller, as far as its size tells. */
bool results_are_mapped(const Outgoing *message, PyArrayObject *array);

/* Lets go what is kept for the message. */
void results_clear(Outgoing *message);

#endif
