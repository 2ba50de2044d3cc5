/* Typed errors of samemap._errors, raised from C. */
#ifndef SAMEMAP_ERRORS_H
#define SAMEMAP_ERRORS_H

#include "state.h"

/* Sets `type(message, path, expected, found, errnum)`; steals `expected` and
 * `found` (str, or NULL with an exception already set). */
void errors_set_backing(PyObject *type, const char *message, const char *path,
                        PyObject *expected, PyObject *found, int errnum);

/* The error for a failed open or stat of `path`, by `errnum`. */
void errors_set_open(State *state, const char *path, PyObject *expected,
                     int errnum);

/* The mapped file is shorter than the map; sizes in bytes. */
void errors_set_truncated(State *state, const char *path, int64_t expected,
                          int64_t found);

#endif
