/* What an np.memmap is besides an array, in a message.
 *
 *   (memory, filename, offset, mode)
 *
 * stands where other arrays have their memory alone: a Backing or bytes when it
 * is written, a Source or the bytes when it is read. The others are the
 * attributes of the np.memmap that the array is or is a view of. All views of
 * one map share the tuple, so that the pickler writes it once.
 */
#ifndef SAMEMAP_MEMMAP_H
#define SAMEMAP_MEMMAP_H

#include "mapping.h"
#include "state.h"

/* What the last view of a map had, for the next one to use again. Writer:
 * wire/memmap.c. */
typedef struct {
    /* Owned: what was sent, which the pickler memoises; or NULL. It is what
     * this np.memmap (only an address) was found to have in that message. */
    PyObject *tuple;
    const void *sender;
    uint64_t message;
    bool tuple_is_shared; /* as memmap_is_shared tells */
    /* Owned: what is copied for each that is rebuilt, {filename, offset, mode,
     * _mmap: None}; or NULL. It is good for these three, borrowed from it. */
    PyObject *dict;
    PyObject *filename, *offset, *mode;
    /* Owned: weak reference to the np.memmap that is the base of what is
     * rebuilt, with these attributes, which it holds; or NULL. */
    PyObject *root;
    const void *root_filename, *root_offset, *root_mode;
} MemmapHeader;

/* As it was found for one array. */
typedef struct {
    PyObject *tuple; /* owned; NULL: neither an np.memmap nor a view of one */
    bool has_mmap;   /* its own `_mmap` is the mapping */
    bool is_bare;    /* an np.memmap without attributes, on one that has them */
} MemmapFound;

/* Fills *found for `array`, whose memory belongs to the np.memmap `root` (NULL:
 * to none). `owner` takes the memory's place in the tuple, `kept` is that of a
 * backing, or NULL; `message` is the number of the message. 0, or -1 with an
 * exception. */
int memmap_find(State *state, PyObject *array, PyObject *root, PyObject *owner,
                MemmapHeader *kept, uint64_t message, MemmapFound *found);

/* New reference: the same with another memory; NULL with an exception. */
PyObject *memmap_with_memory(PyObject *tuple, PyObject *memory);

/* By its mode, what is written there is meant to reach the file. `kept` is that
 * of the backing. */
bool memmap_is_shared(const State *state, PyObject *tuple,
                      const MemmapHeader *kept);

/* It is open in some mode; without one, nothing but its type says np.memmap. */
bool memmap_has_mode(PyObject *tuple);

/* New reference: what is to be the base of views of `mapping`, which `map`
 * keeps: an np.memmap with the attributes of `tuple` and its data where they
 * say, or `map` itself where they don't fit. NULL with an exception. */
PyObject *memmap_root(State *state, PyObject *tuple, const Mapping *mapping,
                      MemmapHeader *kept, PyObject *map);

/* Makes an np.memmap of what was built as State.bare_memmap_type; its
 * attributes are those of `tuple` (NULL: all None), `map` becomes its `_mmap`.
 * 0, or -1. */
int memmap_finish(State *state, PyObject *array, PyObject *tuple,
                  MemmapHeader *kept, PyObject *map);

/* Forgets what holds a reference to the backing itself. */
void memmap_forget(MemmapHeader *kept);
void memmap_clear(MemmapHeader *kept);

/* Makes State.bare_memmap_type: 0 or -1. */
int memmap_init(State *state);

#endif
