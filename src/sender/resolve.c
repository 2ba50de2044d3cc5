/* Owns the way from an array's memory to its backing: known, or made of what
 * the operating system or np.memmap tells, and registered.
 *
 * What an mmap.mmap maps stays the same until it is resized or closed; what any
 * other owner maps may be something else each time it is asked about.
 */
#include "sender/resolve.h"

#include "os/page.h"
#include "registry.h"
#include "sender/outgoing.h"

/* Borrowed: the outermost np.memmap in the chain of bases of `array`, which may
 * be NULL, or NULL. What it says of itself serves where there is no map table.
 */
static PyObject *
find_memmap(const State *state, PyArrayObject *array)
{
    PyObject *current = (PyObject *)array;
    while (current != NULL && PyArray_Check(current) &&
           !PyObject_TypeCheck(current, state->memmap_type)) {
        current = PyArray_BASE((PyArrayObject *)current);
    }
    return current != NULL && PyArray_Check(current) ? current : NULL;
}

/* It says that its map is private: MAPPING_PRIVATE or 0, or -1. */
static int
get_sharing(State *state, PyObject *memmap)
{
    PyObject *mode = PyObject_GetAttr(memmap, state->str_mode);
    if (mode == NULL) {
        return -1;
    }
    bool private = PyUnicode_Check(mode) &&
                   PyUnicode_CompareWithASCIIString(mode, "c") == 0;
    Py_DECREF(mode);
    return private ? MAPPING_PRIVATE : 0;
}

/* NULL without an exception: it does not say which file it maps. */
static Backing *
from_attributes(State *state, PyObject *memmap, char *start, npy_intp length,
                unsigned access)
{
    Backing *backing = NULL;
    PyObject *path = NULL;
    PyObject *filename = PyObject_GetAttr(memmap, state->str_filename);
    PyObject *offset = PyObject_GetAttr(memmap, state->str_offset);
    if (filename == NULL || offset == NULL || filename == Py_None ||
        !PyLong_Check(offset) || !PyUnicode_FSConverter(filename, &path)) {
        goto done;
    }
    unsigned long long position = PyLong_AsUnsignedLongLong(offset);
    if (PyErr_Occurred()) {
        goto done;
    }
    /* As np.memmap itself rounds it. */
    position -= position % page_size();
    Mapping mapping = {start, length, position, access};
    backing = backing_new_from_path(state, &mapping, PyBytes_AsString(path));
done:
    Py_XDECREF(path);
    Py_XDECREF(offset);
    Py_XDECREF(filename);
    return backing;
}

/* 1 and *entry if one file is mapped at [low, high); 0 if none is, and then
 * *shared tells shared memory from all else; -1 if the system doesn't tell. */
static int
find_file(State *state, const char *low, const char *high, MapEntry *entry,
          bool *shared)
{
    entry->shared = false;
    int found =
        maptable_find(&state->maptable, (uintptr_t)low, (uintptr_t)high, entry);
    if (found == 1 && maptable_is_nameless(entry)) {
        found = 0;
    }
    *shared = found == 0 && entry->shared;
    return found;
}

/* New reference: the backing of all of an mmap.mmap where the system doesn't
 * tell what is mapped. That is shared unless np.memmap says otherwise. */
static Backing *
backing_without_table(State *state, PyArrayObject *array, char *start,
                      npy_intp length, bool readonly)
{
    PyObject *memmap = find_memmap(state, array);
    int sharing = memmap != NULL ? get_sharing(state, memmap) : 0;
    if (sharing < 0) {
        return NULL;
    }
    if (memmap != NULL && !maptable_is_expected(&state->maptable)) {
        unsigned access = readonly ? 0 : MAPPING_WRITABLE;
        Backing *backing = from_attributes(state, memmap, start, length,
                                           access | (unsigned)sharing);
        if (backing != NULL || PyErr_Occurred()) {
            return backing;
        }
    }
    return backing_new_without_file(state, start, length, REASON_NO_MAPTABLE,
                                    (unsigned)sharing);
}

/* New reference: the backing of all of an mmap.mmap, which `array` lies in, if
 * there is one yet. */
static Backing *
of_mmap(State *state, PyArrayObject *array, PyObject *owner)
{
    Py_buffer buffer;
    MapEntry entry;
    if (PyObject_GetBuffer(owner, &buffer, PyBUF_SIMPLE) < 0) {
        return NULL;
    }
    char *start = buffer.buf;
    npy_intp length = buffer.len;
    bool readonly = buffer.readonly;
    /* As NumPy does: an array keeps its mmap alive, but not its export. */
    PyBuffer_Release(&buffer);

    bool shared;
    int found = find_file(state, start, start + length, &entry, &shared);
    if (found < 0) {
        return backing_without_table(state, array, start, length, readonly);
    }
    if (found == 0) {
        return backing_new_without_file(state, start, length, REASON_ANONYMOUS,
                                        shared ? 0 : MAPPING_PRIVATE);
    }
    entry.writable &= !readonly;
    return backing_new(state, start, length, &entry, false);
}

/* The object that registers a backing: the owner, or the last array before an
 * owner that can't be referenced weakly. */
static int
add_owned(State *state, Backing *backing, const Owner *owner)
{
    bool by_token =
        backing->place.py_token != NULL && !backing_is_private(backing);
    if (registry_add(state, backing, owner->object, by_token) == 0) {
        return 0;
    }
    if (owner->object == owner->last_array ||
        !PyErr_ExceptionMatches(PyExc_TypeError)) {
        return -1;
    }
    PyErr_Clear();
    return registry_add(state, backing, owner->last_array, by_token);
}

/* New reference: the backing of the mmap.mmap that holds the array. */
static Backing *
find_mmap(State *state, PyArrayObject *array, const Owner *owner,
          uint64_t message)
{
    Backing *known = state->last;
    if (known == NULL || known->place.owner_address != owner->object) {
        known = registry_of_owner(state, owner->object);
    }
    bool requested = known != NULL && known->mapping.access & MAPPING_REQUESTED;
    if (known != NULL && known->reach.checked != message) {
        int unmoved = backing_is_memory_of(known, owner->object);
        if (unmoved < 0) {
            return NULL;
        }
        /* Without a map table then: for want of a descriptor, maybe. */
        if (!unmoved || (known->reach.reason == REASON_NO_MAPTABLE &&
                         maptable_is_expected(&state->maptable))) {
            registry_remove(state, known);
            known = NULL;
        }
    }
    if (known == NULL) {
        Backing *fresh = of_mmap(state, array, owner->object);
        if (fresh == NULL) {
            return NULL;
        }
        if (requested) {
            backing_set_requested(fresh);
        }
        /* That has released the GIL: another thread may have been quicker, and
         * its token may be in a message already. */
        known = registry_of_owner(state, owner->object);
        if (known == NULL) {
            if (add_owned(state, fresh, owner) < 0) {
                Py_DECREF((PyObject *)fresh);
                return NULL;
            }
            known = fresh; /* the registry holds it while the owner lives */
        }
        Py_DECREF((PyObject *)fresh);
    }
    state->last = known;
    return (Backing *)Py_NewRef((PyObject *)known);
}

/* Borrowed: the first backing of `owner` that has some of [low, high). */
static Backing *
find_overlapping(State *state, const Owner *owner, const char *low,
                 const char *high)
{
    Backing *each = registry_of_owner(state, owner->object);
    if (each == NULL) {
        each = registry_of_owner(state, owner->last_array);
    }
    for (; each != NULL; each = each->place.sibling) {
        const Mapping *mapping = &each->mapping;
        const char *end = mapping->start + mapping->length;
        if (low == high ? mapping_covers(mapping, low, high)
                        : low < end && high > mapping->start) {
            return each;
        }
    }
    return NULL;
}

/* `known`, which may be NULL, holds [low, high) and is what is mapped there. */
static bool
is_shown_by(const Backing *known, const char *low, const char *high,
            const MapEntry *entry)
{
    return known != NULL && mapping_covers(&known->mapping, low, high) &&
           reach_shows(&known->reach, &known->mapping, entry);
}

/* New reference: the backing of a whole run of the map table. */
static Backing *
of_entry(State *state, const MapEntry *entry)
{
    return backing_new(state, (char *)entry->start,
                       (npy_intp)(entry->end - entry->start), entry, true);
}

/* New reference: the backing of memory on no file; `found` and `shared` as
 * find_file tells them. */
static Backing *
of_no_file(State *state, const char *low, const char *high, int found,
           bool shared)
{
    bool expected = maptable_is_expected(&state->maptable);
    return backing_new_without_file(state, (char *)low, high - low,
                                    found < 0 && expected ? REASON_NO_MAPTABLE
                                                          : REASON_MEMORY,
                                    shared ? 0 : MAPPING_PRIVATE);
}

/* New reference: the backing of the memory around [low, high), which an owner
 * that we don't know may map anew at any time: so the system is asked for each
 * array or, where an answer takes up to a millisecond, once a message. */
static Backing *
find_foreign_owner(State *state, const Owner *owner, const char *low,
                   const char *high, uint64_t message)
{
    MapEntry entry;
    bool shared;
    bool slow = maptable_is_slow(&state->maptable);
    Backing *known = find_overlapping(state, owner, low, high);
    if (slow && known != NULL && mapping_covers(&known->mapping, low, high) &&
        known->reach.located == message && !message_is_implicit(message)) {
        return (Backing *)Py_NewRef((PyObject *)known);
    }
    int found = find_file(state, low, high, &entry, &shared);
    if (found == 1 && is_shown_by(known, low, high, &entry)) {
        reach_set_located(&known->reach, message);
        return (Backing *)Py_NewRef((PyObject *)known);
    }
    Backing *backing = found == 1 ? of_entry(state, &entry)
                                  : of_no_file(state, low, high, found, shared);
    if (backing == NULL) {
        return NULL;
    }
    /* That has released the GIL: see find_mmap. */
    known = find_overlapping(state, owner, low, high);
    if (found == 1 && is_shown_by(known, low, high, &entry)) {
        Py_DECREF((PyObject *)backing);
        reach_set_located(&known->reach, message);
        return (Backing *)Py_NewRef((PyObject *)known);
    }
    reach_set_located(&backing->reach, message);
    /* What the owner had there before is gone. */
    low = backing->mapping.start;
    high = low + backing->mapping.length;
    while ((known = find_overlapping(state, owner, low, high)) != NULL) {
        registry_remove(state, known);
    }
    if ((found == 1 || slow) && low < high &&
        add_owned(state, backing, owner) < 0) {
        Py_DECREF((PyObject *)backing);
        return NULL;
    }
    return backing;
}

Backing *
resolve_backing(State *state, PyArrayObject *array, const Owner *owner,
                char *low, char *high, uint64_t message)
{
    return owner->kind == OWNER_MMAP
               ? find_mmap(state, array, owner, message)
               : find_foreign_owner(state, owner, low, high, message);
}

int
resolve_request(State *state, PyObject *map)
{
    Owner owner = {.kind = OWNER_MMAP, .object = map, .last_array = map};
    Backing *backing = of_mmap(state, NULL, map);
    if (backing == NULL) {
        return -1;
    }
    backing_set_requested(backing);
    int result = add_owned(state, backing, &owner);
    Py_DECREF((PyObject *)backing);
    return result;
}
