/* A mapping that a message names, and the ways of its reader to the bytes. */
#ifndef SAMEMAP_SOURCE_H
#define SAMEMAP_SOURCE_H

#include "receiver/memory.h"
#include "wire/patches.h"
#include "wire/reference.h"

extern PyType_Spec source_spec;

/* Lives as long as the message is read, in a batch as long as its last task.
 * Nothing is opened before a view asks for its bytes. */
typedef struct {
    PyObject_HEAD
    State *state;
    Reference reference; /* its objects owned */
    Patches patches;     /* what was read of them so far */
    Memory shared;       /* the mapping of all messages */
    /* Those of this message alone: with private pages, and with the file's. */
    Memory private, own;
    int fd; /* kept for the next task, or -1 */
} Source;

/* samemap._core.attach: see wire/reference.h. */
PyObject *source_attach(PyObject *module, PyObject *args);

/* Which bytes a view wants, for source_get. */
typedef enum {
    SOURCE_SHARED,  /* those that everybody has */
    SOURCE_OWN,     /* the same on a mapping of this message's own */
    SOURCE_PRIVATE, /* a private mapping of this message's own */
} SourceKind;

/* The mapping, made at the first call. Borrowed, as long as the source lives;
 * NULL with an exception. */
Memory *source_get(Source *source, SourceKind kind);

/* New memory that nobody else has, with the bytes of the offsets [low, high),
 * patched: a private mapping or, where that is less work and `may_copy`, or
 * there are too many mappings, a copy. 0, or -1 with an exception. */
int source_make(Source *source, npy_intp low, npy_intp high, bool may_copy,
                Memory *memory);

#endif
