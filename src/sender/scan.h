/* Which objects do the tasks of a batch hold, and which arrays do several
 * share? */
#ifndef SAMEMAP_SCAN_H
#define SAMEMAP_SCAN_H

#include "sender/outgoing.h"

/* Walks the tasks, a list of (function, args, kwargs), through exact lists,
 * tuples and dicts, and notes in message->arguments what one task or several
 * get to. `types` is a container of array types with reducers of their own. New
 * reference: three lists, of the objects (neither arrays nor such containers
 * nor atoms) that several tasks get to and those of one task, each once, and of
 * the types of arrays that are not in `types`; NULL with an exception. Objects
 * within functions, methods and partials count too. */
PyObject *scan_tasks(Outgoing *message, PyObject *tasks, PyObject *types);

/* Several tasks get to it as an argument or part of one. */
bool scan_is_shared(const Outgoing *message, PyObject *object);

/* An object, which is being written, leads to the array. If that is an argument
 * as well, an object of several tasks makes it shared, and one of a task alone
 * entangles the message. 0, or -1 with an exception. */
int scan_meet(Outgoing *message, PyObject *array);

/* Some task gets to the array so. */
bool scan_is_argument(const Outgoing *message, PyObject *array);

/* Finds the types of functions that carry objects along: 0 or -1. */
int scan_init(State *state);

#endif
