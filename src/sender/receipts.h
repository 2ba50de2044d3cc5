/* Memory files of results that wait for their receipts.
 *
 * The worker keeps them open; the caller maps a file and forbids it to become
 * shorter: that seal is the receipt, after which the worker closes.
 */
#ifndef SAMEMAP_RECEIPTS_H
#define SAMEMAP_RECEIPTS_H

#include "sender/export.h"

/* Keeps the file, which the message names, until it is acknowledged or the
 * message discarded: 0, or -1 with MemoryError. */
int receipts_expect(Export *export, uint64_t message);

/* New reference: a tuple with a receipt (pid, fd, identity) for each file of
 * the message. */
PyObject *receipts_of_message(State *state, uint64_t message);

/* The message isn't sent: lets go of its files. */
void receipts_discard(State *state, uint64_t message);

/* samemap._core.acknowledge(pid, fd, identity): in the caller; False when it
 * should be tried again. */
PyObject *receipts_acknowledge(PyObject *module, PyObject *args);

/* samemap._core.close_exports(): in the worker, lets go of the files that the
 * caller has acknowledged; the number of the others. */
PyObject *receipts_close(PyObject *module, PyObject *ignored);

/* For a forked child, and for a state that dies. */
void receipts_clear(State *state);

#endif
