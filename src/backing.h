/* A backing: one mapping of one file, as its sender and its receiver know it.
 */
#ifndef SAMEMAP_BACKING_H
#define SAMEMAP_BACKING_H

#include "os/fileid.h"
#include "ranges.h"
#include "state.h"

extern PyType_Spec backing_spec;

typedef enum {
    BACKING_READABLE = 0,
    BACKING_WRITABLE = 1 << 0,
    BACKING_PRIVATE = 1 << 1,
    BACKING_ALL_ACCESS = (1 << 2) - 1,
} BackingAccess;

struct Backing {
    PyObject_HEAD
    State *state;
    /* Weak reference to the object that keeps the memory mapped. When it dies
     * the backing leaves the registry. NULL before and after that. */
    PyObject *owner_ref;
    const void *owner_address; /* of that object, only to be compared */
    PyObject *py_owner_key;    /* the same as the key in State.by_owner */
    Backing *sibling;          /* owned: the next of the same owner, or NULL */
    PyObject *py_token;        /* bytes; the same in every process */
    char *start;               /* address of the first byte */
    npy_intp length;           /* bytes */
    uint64_t file_offset;      /* bytes, of `start` in the file; page-aligned */
    unsigned access;           /* BackingAccess */
    bool foreign;              /* mapped here by a message: another's token */
    bool rounded;              /* see backing_new; cleared at the first check */
    /* The map table's numbers of the file, and the message in which it was
     * last asked for them. 0: no file. */
    uint64_t map_inode;
    uint32_t map_major, map_minor;
    uint64_t located;
    bool has_id;
    FileId id;
    Reason reason;     /* why it can't be referenced; NONE: it can */
    PyObject *locator; /* bytes: the path that a receiver opens, or NULL */
    long pid;          /* of the process that mapped it first */
    int fd;            /* our duplicate of a descriptor on the file, which then
                        * has an id; or -1 */
    uint64_t checked;  /* number of the message in which it was last checked */
    /* Of a private map: the parts whose modified bytes are in the message of
     * that number already. */
    Ranges sent;
    uint64_t sent_message;
    /* For np.memmap: the tuple (backing, filename, offset, mode) that the
     * pickler memoises, good while the attributes are the same objects. */
    PyObject *face;
    /* For an np.memmap rebuilt on it: a dict to copy, {filename, offset, mode,
     * _mmap: None}, good for the same three objects (borrowed from it). */
    PyObject *dict, *filename, *offset, *mode;
};

/* All of these return a new reference, in no registry yet, or NULL with an
 * exception.
 *
 * The backing of [start, start + length), which `entry` of the map table
 * covers; checked once (see backing_check). `rounded`: the length is that of
 * the pages, of which the file may fill the last one partly. */
Backing *backing_new(State *state, char *start, npy_intp length,
                     const MapEntry *entry, bool rounded);

/* Without a map table: what np.memmap knows of itself. */
Backing *backing_new_from_path(State *state, char *start, npy_intp length,
                               const char *path, uint64_t file_offset,
                               unsigned access);

/* Memory that no file can be found for, and why. `access` may say that it is
 * private; if not, other processes see what is written there. */
Backing *backing_new_without_file(State *state, char *start, npy_intp length,
                                  Reason reason, unsigned access);

/* What a message named and was mapped for it at `start`. */
Backing *backing_new_attached(State *state, char *start, npy_intp length,
                              uint64_t file_offset, unsigned access,
                              const FileId *id, PyObject *locator,
                              PyObject *py_token, long pid);

/* Sets how a receiver reaches the file (`locator`), or why it can't
 * (`reason`), as of now; once a message. 0, or -1 with an exception: the
 * file has become shorter than the map. */
int backing_check(Backing *backing, uint64_t message);

/* `entry`, found at the backing's memory, is what it has been made of: nothing
 * else was mapped there since. */
bool backing_shows(const Backing *backing, const MapEntry *entry);

static inline bool
backing_covers(const Backing *backing, const char *low, const char *high)
{
    return low >= backing->start && high <= backing->start + backing->length;
}

static inline bool
backing_is_private(const Backing *backing)
{
    return backing->access & BACKING_PRIVATE;
}

static inline bool
backing_is_writable(const Backing *backing)
{
    return backing->access & BACKING_WRITABLE;
}

/* The locator, or what is known of the path, for people. Borrowed. */
const char *backing_path(const Backing *backing);

#endif
