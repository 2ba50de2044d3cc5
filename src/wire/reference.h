/* The first half of a message: which mapping of which file, and how to reach
 * it.
 *
 *   attach(version, token, path, identity, offset, length, access, pid)
 *
 *   version   int: MESSAGE_VERSION of the sender
 *   token     TOKEN_SIZE bytes: the mapping, the same in every process
 *   path      bytes: what the reader opens
 *   identity  bytes: which file that must be (wire/identity.h)
 *   offset    int: bytes, of the mapping's start in the file; page-aligned
 *   length    int: bytes of the mapping, at least 1
 *   access    int: how the sender maps it (mapping.h)
 *   pid       int: of the process that has the file open
 *
 * A tuple, which the pickler writes once a message however many views use it.
 */
#ifndef SAMEMAP_REFERENCE_H
#define SAMEMAP_REFERENCE_H

#include "mapping.h"
#include "os/fileid.h"
#include "state.h"

/* Raised by every change of what any part of a message holds: the layout, the
 * header of an np.memmap and the patches have no number of their own. A reader
 * takes its own version only; nothing is translated. */
#define MESSAGE_VERSION 3

typedef struct {
    PyObject *py_token, *py_path; /* bytes */
    FileId id;
    uint64_t file_offset;
    npy_intp length;
    unsigned access;
    long pid;
} Reference;

/* New reference: the reduction (attach, (...)), or NULL. */
PyObject *reference_encode(State *state, const Reference *reference);

/* Fills *reference, whose objects are borrowed from `args`: 0, or -1 with
 * ValueError, TypeError or, for another version, MessageVersionError. */
int reference_decode(State *state, PyObject *args, Reference *reference);

#endif
