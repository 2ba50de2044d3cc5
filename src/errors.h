/* Typed errors of samemap._errors, raised from C. */
#ifndef SAMEMAP_ERRORS_H
#define SAMEMAP_ERRORS_H

#include "os/fileid.h"
#include "state.h"

/* The error for a failed open or stat of `path`, by `errnum`. */
void errors_set_open(State *state, const char *path, const FileId *expected,
                     int errnum);

/* `path` leads to the file `found` now. */
void errors_set_replaced(State *state, const char *path, const FileId *expected,
                         const FileId *found);

/* The mapped file is shorter than the map; sizes in bytes. */
void errors_set_truncated(State *state, const char *path, int64_t expected,
                          int64_t found);

/* New reference: str, the identity as people read it. */
PyObject *errors_format_id(const FileId *id);

/* Finds the classes: 0 or -1. */
int errors_init(State *state);

#endif
