/* Everything that the module keeps between calls. */
#ifndef SAMEMAP_STATE_H
#define SAMEMAP_STATE_H

#include "core.h"
#include "os/descriptor.h"
#include "os/fileid.h"
#include "os/maptable.h"
#include "os/memfile.h"
#include "os/pagemap.h"
#include "os/writes.h"
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

/* Every reference that the state owns besides these names: its C type and its
 * name, for the struct, for traverse and for clear. */
#define STATE_REFERENCES(X)                                                    \
    /* Types of others: of mmap, numpy, types and functools; a np.memmap       \
     * without a Python finalizer (wire/memmap.c); what as_strided puts in     \
     * between (owner.c). */                                                   \
    X(PyTypeObject, mmap_type)                                                 \
    X(PyTypeObject, memmap_type)                                               \
    X(PyTypeObject, bare_memmap_type)                                          \
    X(PyTypeObject, dummy_array_type)                                          \
    X(PyTypeObject, function_type)                                             \
    X(PyTypeObject, method_type)                                               \
    X(PyTypeObject, partial_type)                                              \
    /* Types of ours, and functions that messages name. */                     \
    X(PyTypeObject, backing_type)                                              \
    X(PyTypeObject, outgoing_type)                                             \
    X(PyTypeObject, source_type)                                               \
    X(PyTypeObject, pending_type)                                              \
    X(PyTypeObject, export_type)                                               \
    X(PyTypeObject, image_type)                                                \
    X(PyObject, attach)                                                        \
    X(PyObject, rebuild)                                                       \
    X(PyObject, pending)                                                       \
    /* Classes of samemap._errors. */                                          \
    X(PyObject, backing_error)                                                 \
    X(PyObject, not_found_error)                                               \
    X(PyObject, replaced_error)                                                \
    X(PyObject, truncated_error)                                               \
    X(PyObject, permission_error)                                              \
    X(PyObject, strict_error)                                                  \
    X(PyObject, version_error)                                                 \
    /* What mmap.mmap is called with. */                                       \
    X(PyObject, mmap_shared)                                                   \
    X(PyObject, mmap_private)                                                  \
    X(PyObject, prot_read)                                                     \
    X(PyObject, prot_write)                                                    \
    /* The registry's dicts of Backings, which hold their owner weakly: by the \
     * address of the owner, and by token (shared maps). */                    \
    X(PyObject, by_owner)                                                      \
    X(PyObject, by_token)                                                      \
    /* Modes of np.memmap. */                                                  \
    X(PyObject, str_r)                                                         \
    X(PyObject, str_r_plus)                                                    \
    X(PyObject, str_w_plus)

typedef struct Backing Backing;

typedef struct {
    uint64_t arrays, bytes;
} Count;

typedef struct Export Export;

/* Bytes that there was room for, at a time (milliseconds). */
typedef struct {
    int64_t bytes;
    uint64_t time;
} Room;

/* A memory file of results that waits for its receipt: sender/receipts.c. */
typedef struct {
    PyObject *export; /* owned */
    uint64_t message; /* that names it */
} Receipt;

typedef struct State {
#define STATE_REFERENCE(type, name) type *name;
    STATE_REFERENCES(STATE_REFERENCE)
#undef STATE_REFERENCE
#define STATE_NAME(name) PyObject *str_##name;
    STATE_NAMES(STATE_NAME)
#undef STATE_NAME
    PyObject *builtin_dtypes[STATE_TYPES]; /* by type number, or NULL */

    bool mmap_has_trackfd; /* CPython 3.13 */

    Backing *last; /* borrowed from by_owner: the one asked for last */
    unsigned char token_prefix[8]; /* random, one a process */
    uint64_t token_count;

    MapTable maptable;
    PagemapSource pagemap;

    /* What threads do now: the messages that they write (Outgoing), the tasks
     * that they make ready (receiver/task.c) and that they run
     * (receiver/lost.c). Borrowed: each takes itself out. */
    ThreadLink *outgoing, *tasks, *watches;

    /* What this process had open when that message was written:
     * mappedfile.c. */
    OpenFiles open_files;
    uint64_t open_files_message;

    uint64_t message_count;

    long map_limit; /* of the system, as budget.c has asked for it; or 0 */
    long own_maps;  /* that messages made for one task or reader */
    long kept_descriptors; /* of sources, see receiver/source.c */

    Export *exports; /* borrowed: all that are open. Writer: sender/export.c,
                      * as of these all */
    Room file_room, memory_room;
    LargePages large_pages;

    Receipt *receipts; /* writer: sender/receipts.c */
    size_t receipt_count, receipt_room;

    /* Of ordinary memory. Writer: sender/images.c. */
    PyObject **images; /* owned */
    size_t image_count, image_room;
    WriteWatch watch;
    bool is_arming; /* some thread does, without the GIL */

    Count by_reference, by_value[REASON_COUNT];
    Count lost; /* maps that tasks have written to for themselves alone */
} State;

/* New reference: attribute `name` of module `module_name`; NULL with an
 * exception. */
PyObject *state_import(const char *module_name, const char *name);

/* Sets the names and what NumPy and others have: 0 or -1. The rest of the state
 * is set by the `<file>_init` of those who use it. */
int state_init(State *state);

int state_traverse(State *state, visitproc visit, void *arg);
void state_clear(State *state);

#endif
