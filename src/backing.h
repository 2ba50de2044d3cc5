/* A backing: one mapping of one file, as its sender and its receiver know it.
 *
 *      array ──base──> np.memmap ──base──> mmap.mmap      (the owner)
 *                                            ▲     ▲
 *             keeps it only weakly           │     │ keeps it mapped
 *                                            │     │
 *   State.by_owner ─┐    ┌───────────────────┴──┐  │
 *   {address: ...}  ├───>│ Backing              │  │
 *   State.by_token ─┘    │  Mapping  mapping  ──┼──┼──> start ┌──────────┐
 *   {token: ...}         │  Reach    reach    ──┼──┼──> path  │  pages   │
 *                        │  Place    place ─────┼──┘    fd    │  of the  │
 *                        │  Sent     sent       │       id    │  file    │
 *   the next backing <───┼─ sibling             │             └──────────┘
 *   of the same owner    │  MemmapHeader header ┼──> (backing, filename, ...)
 *                        └──────────────────────┘
 *
 * Each part has one writer, which its struct names; everybody may read.
 * `.ci/writers` looks for others.
 */
#ifndef SAMEMAP_BACKING_H
#define SAMEMAP_BACKING_H

#include "mapping.h"
#include "ranges.h"
#include "reach.h"
#include "state.h"
#include "wire/memmap.h"

extern PyType_Spec backing_spec;

/* Where the registry has it. Writer: registry.c. */
typedef struct {
    /* Weak reference to the object that keeps the memory mapped. When it dies
     * the backing leaves the registry. NULL before and after that. */
    PyObject *owner_ref;
    const void *owner_address; /* of that object, only to be compared */
    PyObject *py_owner_key;    /* the same as the key in State.by_owner */
    Backing *sibling;          /* owned: the next of the same owner, or NULL */
    PyObject *py_token; /* owned bytes, the same in every process; NULL: there
                         * is no file that a message could name */
    bool given;         /* the token is a message's, and so the owner ours */
    bool counted;       /* it is one of State.own_maps */
} Place;

/* Of a private map: the parts whose modified bytes are in the message of that
 * number already. Writer: sender/modified.c. */
typedef struct {
    Ranges ranges;
    uint64_t message;
} Sent;

struct Backing {
    PyObject_HEAD
    State *state;
    Mapping mapping;     /* writer: backing.c */
    Reach reach;         /* writer: reach.c */
    Place place;         /* writer: registry.c */
    Sent sent;           /* writer: sender/modified.c */
    MemmapHeader header; /* writer: wire/memmap.c */
};

/* All of these return a new reference, in no registry yet, or NULL with an
 * exception.
 *
 * The backing of [start, start + length), which `entry` of the map table
 * covers; checked once. `rounded`: see Reach. */
Backing *backing_new(State *state, char *start, intptr_t length,
                     const MapEntry *entry, bool rounded);

/* Without a map table: what np.memmap knows of itself. */
Backing *backing_new_from_path(State *state, const Mapping *mapping,
                               const char *path);

/* Memory that no file can be found for, and why. `access` may say that it is
 * private; if not, other processes see what is written there. */
Backing *backing_new_without_file(State *state, char *start, intptr_t length,
                                  Reason reason, unsigned access);

/* What a message named and was mapped for it; `py_token` is the message's, or
 * NULL for a new one. */
Backing *backing_new_attached(State *state, const Mapping *mapping,
                              const FileId *id, PyObject *path,
                              PyObject *py_token, long pid);

/* Sets how a receiver reaches the file, or why it can't, as of now; once a
 * message. May shorten the mapping to what the file fills. 0, or -1 with an
 * exception: the file has become shorter than the map. */
int backing_check(Backing *backing, uint64_t message);

/* `map` still is at the address of the backing, and as long: 1, 0, or -1 with
 * an exception when it is closed. An mmap.mmap can be resized, and then it
 * moves. */
int backing_is_memory_of(const Backing *backing, PyObject *map);

/* The memory was made to be shared. */
void backing_set_requested(Backing *backing);

static inline bool
backing_is_private(const Backing *backing)
{
    return mapping_is_private(&backing->mapping);
}

#endif
