/* A memory file that this process makes for another one to map.
 *
 * The object has the only descriptor, and closes it when it dies. It is pickled
 * as a reference to /proc/<pid>/fd/<fd>, which the reader maps privately.
 */
#ifndef SAMEMAP_EXPORT_H
#define SAMEMAP_EXPORT_H

#include "os/fileid.h"
#include "os/memfile.h"
#include "state.h"

extern PyType_Spec export_spec;

/* What would be so large in a message goes by a file. */
#define EXPORT_MIN 1000000

/* Addresses keep their remainder by this in files, and so their alignment. */
#define EXPORT_ALIGNMENT 64

typedef struct Export Export;
struct Export {
    PyObject_HEAD
    State *state;
    MemFile file; /* fd -1: closed, in a forked child */
    FileId id;
    Export *next; /* in State.exports */
};

/* New reference: a file of `size` bytes, all zero, in `folder` if that isn't
 * NULL (see memfile_create). `sealable`: one that can't be sealed won't do.
 * Without an exception NULL, and *reason: it can't be had. */
Export *export_new(State *state, const char *folder, npy_intp size,
                   bool sealable, Reason *reason);

/* Writes [data, data + length) at `offset`, if there is room: REASON_NONE, or
 * why not. Writes nothing else. The GIL is released meanwhile; the caller keeps
 * the data and the export. */
Reason export_fill(Export *export, npy_intp offset, const char *data,
                   npy_intp length);

/* There is memory for so many bytes more in private pages, as of now or a
 * moment ago. */
bool export_has_memory(State *state, npy_intp size);

/* Forbids that the file grows and, if asked, shrinks: REASON_NONE, or why not.
 */
Reason export_seal(Export *export, bool shrink);

/* The file still has these bytes at `offset`. The GIL is released. */
bool export_holds(const Export *export, npy_intp offset, const char *data,
                  npy_intp length);

/* Remainder of an address by EXPORT_ALIGNMENT. */
static inline npy_intp
export_remainder(const char *address)
{
    return (npy_intp)((uintptr_t)address % EXPORT_ALIGNMENT);
}

/* In a forked child: the files are its parent's. */
void export_after_fork(State *state);

#endif
