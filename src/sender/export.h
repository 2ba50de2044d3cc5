/* Memory files by which the results of a worker reach its caller.
 *
 * The worker keeps a descriptor on each, and nothing else; the caller opens
 * that by /proc, maps the file, and forbids it to become shorter: that seal is
 * the receipt, after which the worker closes.
 */
#ifndef SAMEMAP_EXPORT_H
#define SAMEMAP_EXPORT_H

#include "state.h"

extern PyType_Spec export_spec;

/* What would be so large in the message goes by a file. */
#define EXPORT_MIN 1000000

/* New reference: a file of the message `message` that has the bytes
 * [data, data + length) at `offset`. Without an exception NULL, and *reason: it
 * can't be had. The GIL is released meanwhile; the caller keeps the data. */
PyObject *export_new(State *state, uint64_t message, const char *data,
                     npy_intp offset, npy_intp length, Reason *reason);

/* The file `export` still has these bytes at `offset`. The GIL is released. */
bool export_holds(PyObject *export, npy_intp offset, const char *data,
                  npy_intp length);

/* New reference: a tuple with a receipt (pid, fd, identity) for each file of
 * the message. */
PyObject *export_receipts(State *state, uint64_t message);

/* The message isn't sent: closes its files. */
void export_discard(State *state, uint64_t message);

/* samemap._core.acknowledge(pid, fd, identity): in the caller; False when it
 * should be tried again. */
PyObject *export_acknowledge(PyObject *module, PyObject *args);

/* samemap._core.close_exports(): in the worker, closes the files that the
 * caller has acknowledged; the number of the others. */
PyObject *export_close(PyObject *module, PyObject *ignored);

/* In a forked child: the files are its parent's. */
void export_after_fork(State *state);

/* For a state that dies. */
void export_clear(State *state);

#endif
