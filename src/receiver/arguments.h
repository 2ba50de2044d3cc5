/* What is in the arguments of a task, and the same with other arrays. */
#ifndef SAMEMAP_ARGUMENTS_H
#define SAMEMAP_ARGUMENTS_H

#include "receiver/task.h"

/* Adds what is pending in `object` to the task's items, and the exact lists,
 * tuples and dicts in it to its nodes: 0 or -1. */
int arguments_find(Task *task, PyObject *object);

/* When all is found: marks the containers that lead to something pending. */
void arguments_mark(Task *task);

/* New reference: `object` itself, or what stands for it in this task; NULL with
 * an exception. One container becomes one container, also where it holds
 * itself. */
PyObject *arguments_replace(Task *task, PyObject *object);

#endif
