/* Which objects do the tasks of a batch hold, and which arrays do several
 * share? */
#ifndef SAMEMAP_SCAN_H
#define SAMEMAP_SCAN_H

#include "sender/outgoing.h"

/* Walks the tasks, a list of (function, args, kwargs), through exact lists,
 * tuples and dicts, and notes in message->arguments which of them each array
 * and container is reached from. `types` is a container of array types with
 * reducers of their own. New reference: (objects, others), the objects that are
 * neither arrays nor such containers nor atoms, each once, and the types of
 * arrays that are not in `types`; NULL with an exception. */
PyObject *scan_tasks(Outgoing *message, PyObject *tasks, PyObject *types);

/* `array` is an argument of more than one task, or part of such. */
bool scan_is_shared(const Outgoing *message, PyObject *array);

#endif
