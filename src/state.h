/* Everything that the module keeps between calls. */
#ifndef SAMEMAP_STATE_H
#define SAMEMAP_STATE_H

#include "core.h"
#include "os/descriptor.h"
#include "os/maptable.h"
#include "os/pagemap.h"
#include "reason.h"
#include "threadlist.h"

#define TOKEN_SIZE 16

/* Type numbers below this may be builtin singletons (the last: float16). */
#define STATE_TYPES (NPY_HALF + 1)

/* Interned names; the C name is `str_` and the Python name. */
#define STATE_NAMES(X) \
    X(base)            \
    X(obj)             \
    X(readonly)        \
    X(toreadonly)      \
    X(filename)        \
    X(offset)          \
    X(mode)            \
    X(_mmap)           \
    X(__class__)

typedef struct Backing Backing;

typedef struct {
    uint64_t arrays, bytes;
} Count;

typedef struct State {
    /* Types of others. */
    PyTypeObject *mmap_type;        /* mmap.mmap */
    PyTypeObject *memmap_type;      /* numpy.memmap */
    PyTypeObject *bare_memmap_type; /* the same without a Python finalizer */
    PyTypeObject *function_type, *method_type; /* of the module types */
    PyTypeObject *partial_type;                /* functools.partial */
    PyTypeObject *dummy_array_type; /* what as_strided puts in between */

    /* Types and functions of ours that messages name. */
    PyTypeObject *backing_type, *outgoing_type, *source_type, *pending_type;
    PyObject *attach, *rebuild, *pending;

    /* samemap._errors */
    PyObject *backing_error, *not_found_error, *replaced_error;
    PyObject *truncated_error, *permission_error, *strict_error;
    PyObject *version_error;

#define STATE_NAME(name) PyObject *str_##name;
    STATE_NAMES(STATE_NAME)
#undef STATE_NAME
    PyObject *str_r_plus, *str_w_plus;     /* modes of np.memmap */
    PyObject *builtin_dtypes[STATE_TYPES]; /* by type number, or NULL */

    /* How mmap.mmap is called: keyword names and the fixed values. */
    PyObject *mmap_shared, *mmap_private, *prot_read, *prot_write;
    bool mmap_has_trackfd; /* CPython 3.13 */

    /* Registry: both dicts hold Backings, which hold their owner weakly. */
    PyObject *by_owner; /* {address of the owner: Backing} */
    PyObject *by_token; /* {token: Backing}, shared maps only */
    Backing *last;      /* borrowed from by_owner: the one asked for last */
    unsigned char token_prefix[8]; /* random, one a process */
    uint64_t token_count;

    MapTable maptable;
    PagemapSource pagemap;

    /* What threads do now: the messages that they write (Outgoing), the tasks
     * that they make ready (take.c). Borrowed: each takes itself out. */
    ThreadLink *outgoing, *tasks;

    /* What this process had open when that message was written: reach.c. */
    OpenFiles open_files;
    uint64_t open_files_message;

    uint64_t message_count;

    long own_maps;         /* that messages made for one task or reader */
    long kept_descriptors; /* of sources, see receiver/source.c */

    Count by_reference, by_value[REASON_COUNT];
} State;

#endif
