/* Owns the two tables of known mappings. Invariant: nothing here keeps a
 * mapping alive. The tables hold backings, a backing holds its owner weakly,
 * and the owner's death takes the backing out.
 */
#include "registry.h"

#include <string.h>
#include <unistd.h>

static PyObject *
forget(PyObject *self, PyObject *Py_UNUSED(reference))
{
    Backing *backing = (Backing *)self;
    registry_remove(backing->state, backing);
    Py_RETURN_NONE;
}

static PyMethodDef forget_method = {"forget", forget, METH_O, NULL};

void
registry_remove(State *state, Backing *backing)
{
    if (state->by_owner == NULL || state->by_token == NULL) {
        return; /* the interpreter is ending */
    }
    Py_INCREF((PyObject *)backing);
    if (state->last == backing) {
        state->last = NULL;
    }
    /* Only this very backing: the key may belong to a later one by now, as
     * addresses are used again. */
    if (backing->py_owner_key != NULL &&
        PyDict_GetItemWithError(state->by_owner, backing->py_owner_key) ==
            (PyObject *)backing &&
        PyDict_DelItem(state->by_owner, backing->py_owner_key) < 0) {
        PyErr_WriteUnraisable((PyObject *)backing);
    }
    if (backing->py_token != NULL &&
        PyDict_GetItemWithError(state->by_token, backing->py_token) ==
            (PyObject *)backing &&
        PyDict_DelItem(state->by_token, backing->py_token) < 0) {
        PyErr_WriteUnraisable((PyObject *)backing);
    }
    Py_CLEAR(backing->owner_ref);
    Py_CLEAR(backing->face);
    Py_DECREF((PyObject *)backing);
}

int
registry_add(State *state, Backing *backing, PyObject *owner, bool by_token)
{
    PyObject *callback = PyCFunction_New(&forget_method, (PyObject *)backing);
    if (callback == NULL) {
        return -1;
    }
    backing->owner_ref = PyWeakref_NewRef(owner, callback);
    Py_DECREF(callback);
    if (backing->owner_ref == NULL) {
        return -1;
    }
    backing->owner_address = owner;
    backing->py_owner_key = PyLong_FromVoidPtr(owner);
    if (backing->py_owner_key == NULL) {
        goto error;
    }
    Backing *earlier = registry_of_owner(state, owner);
    if (earlier != NULL) {
        registry_remove(state, earlier);
    }
    if (PyDict_SetItem(state->by_owner, backing->py_owner_key,
                       (PyObject *)backing) < 0 ||
        (by_token && PyDict_SetItem(state->by_token, backing->py_token,
                                    (PyObject *)backing) < 0)) {
        goto error;
    }
    return 0;

error:
    registry_remove(state, backing);
    return -1;
}

Backing *
registry_of_owner(State *state, PyObject *owner)
{
    PyObject *key = PyLong_FromVoidPtr(owner);
    if (key == NULL) {
        PyErr_Clear();
        return NULL;
    }
    /* Keys are exact integers: the lookup can't fail. */
    PyObject *backing = PyDict_GetItemWithError(state->by_owner, key);
    Py_DECREF(key);
    return (Backing *)backing;
}

Backing *
registry_of_token(State *state, PyObject *py_token)
{
    return (Backing *)PyDict_GetItemWithError(state->by_token, py_token);
}

void
registry_after_fork(State *state)
{
    PyObject *key, *backing;
    Py_ssize_t position = 0;
    while (PyDict_Next(state->by_owner, &position, &key, &backing)) {
        ((Backing *)backing)->foreign = true;
    }
}

int
registry_new_prefix(State *state)
{
    int result = -1;
    PyObject *os = PyImport_ImportModule("os");
    PyObject *random = NULL;
    if (os != NULL) {
        random = PyObject_CallMethod(os, "urandom", "i",
                                     (int)sizeof(state->token_prefix));
    }
    if (random != NULL) {
        memcpy(state->token_prefix, PyBytes_AsString(random),
               sizeof(state->token_prefix));
        result = 0;
    }
    Py_XDECREF(random);
    Py_XDECREF(os);
    return result;
}

static bool
covers(const Backing *backing, const char *low, const char *high)
{
    return low >= backing->start && high <= backing->start + backing->length;
}

/* The attributes of the outermost np.memmap in the chain of bases tell what
 * is mapped, where there is no map table. NULL: they don't, no exception. */
static Backing *
from_attributes(State *state, PyArrayObject *array, char *start,
                npy_intp length, bool readonly)
{
    Backing *backing = NULL;
    PyObject *filename = NULL, *offset = NULL, *mode = NULL, *path = NULL;
    PyObject *current = (PyObject *)array;
    while (current != NULL && PyArray_Check(current) &&
           !PyObject_TypeCheck(current, state->memmap_type)) {
        current = PyArray_BASE((PyArrayObject *)current);
    }
    if (current == NULL || !PyArray_Check(current)) {
        return NULL;
    }
    filename = PyObject_GetAttr(current, state->str_filename);
    offset = PyObject_GetAttr(current, state->str_offset);
    mode = PyObject_GetAttr(current, state->str_mode);
    if (filename == NULL || offset == NULL || mode == NULL ||
        filename == Py_None || !PyLong_Check(offset) ||
        !PyUnicode_FSConverter(filename, &path)) {
        goto done;
    }
    unsigned long long position = PyLong_AsUnsignedLongLong(offset);
    if (PyErr_Occurred()) {
        goto done;
    }
    /* As np.memmap itself rounds it. */
    position -= position % (unsigned long long)sysconf(_SC_PAGESIZE);
    bool private = PyUnicode_CompareWithASCIIString(mode, "c") == 0;
    unsigned access =
        (readonly ? 0 : BACKING_WRITABLE) | (private ? BACKING_PRIVATE : 0);
    backing = backing_new_from_path(state, start, length,
                                    PyBytes_AsString(path), position, access);
done:
    Py_XDECREF(path);
    Py_XDECREF(mode);
    Py_XDECREF(offset);
    Py_XDECREF(filename);
    return backing;
}

/* As maptable_find, but 0 for shared memory without a name of its own, which
 * Linux shows as a file. */
static int
find_file(State *state, const char *low, const char *high, MapEntry *entry)
{
    int found =
        maptable_find(&state->maptable, (uintptr_t)low, (uintptr_t)high, entry);
    return found == 1 && strcmp(entry->path, "/dev/zero (deleted)") == 0
               ? 0
               : found;
}

/* New reference: the backing of all of an mmap.mmap. */
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

    Backing *backing = NULL;
    int found = find_file(state, start, start + length, &entry);
    if (found == 1) {
        entry.writable &= !readonly;
        backing = backing_new(state, start, length, &entry, false);
    } else if (found < 0 && !maptable_is_expected(&state->maptable)) {
        backing = from_attributes(state, array, start, length, readonly);
    }
    if (backing == NULL && !PyErr_Occurred()) {
        backing = backing_new_without_file(state, start, length,
                                           found < 0 ? REASON_NO_MAPTABLE
                                                     : REASON_ANONYMOUS);
    }
    return backing;
}

/* `backing` shows what `entry` says: its memory was not mapped anew. */
static bool
still_shows(const Backing *backing, const MapEntry *entry)
{
    return backing->has_id && backing->id.ino == entry->inode &&
           (uintptr_t)backing->start == entry->start &&
           backing->file_offset == entry->file_offset &&
           backing_is_writable(backing) == entry->writable &&
           backing_is_private(backing) == !entry->shared;
}

/* New reference: the backing of the mapping around [low, high), whatever
 * object it belongs to. *fresh is false when `known` is it still. */
static Backing *
of_address(State *state, Backing *known, char *low, char *high, bool *fresh)
{
    MapEntry entry;
    *fresh = true;
    int found = find_file(state, low, high, &entry);
    if (found == 1) {
        if (known != NULL && covers(known, low, high) &&
            still_shows(known, &entry)) {
            *fresh = false;
            return (Backing *)Py_NewRef((PyObject *)known);
        }
        return backing_new(state, (char *)entry.start,
                           (npy_intp)(entry.end - entry.start), &entry, true);
    }
    return backing_new_without_file(
        state, low, high - low,
        found < 0 && maptable_is_expected(&state->maptable) ? REASON_NO_MAPTABLE
                                                            : REASON_MEMORY);
}

/* The object that registers a backing: the owner, or the last array before an
 * owner that can't be referenced weakly. */
static int
add_owned(State *state, Backing *backing, const Owner *owner)
{
    bool by_token = backing->py_token != NULL && !backing_is_private(backing);
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

static Backing *
find_mmap(State *state, PyArrayObject *array, const Owner *owner, char *low,
          char *high)
{
    Backing *known = state->last;
    if (known == NULL || known->owner_address != owner->object) {
        known = registry_of_owner(state, owner->object);
    }
    if (known == NULL || !(low == high || covers(known, low, high))) {
        Backing *before = known;
        Backing *fresh = of_mmap(state, array, owner->object);
        if (fresh == NULL) {
            return NULL;
        }
        /* That has released the GIL: another thread may have been quicker, and
         * its token may be in a message already. */
        known = registry_of_owner(state, owner->object);
        if (known == NULL || known == before) {
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

static Backing *
find_other(State *state, const Owner *owner, char *low, char *high)
{
    bool fresh;
    bool slow = maptable_is_slow(&state->maptable);
    Backing *known = registry_of_owner(state, owner->object);
    if (known == NULL) {
        known = registry_of_owner(state, owner->last_array);
    }
    /* An answer is asked for again each time: an unknown owner may map its
     * memory anew. Not so where an answer takes up to a millisecond. */
    if (slow && known != NULL && covers(known, low, high)) {
        return (Backing *)Py_NewRef((PyObject *)known);
    }
    Backing *backing = of_address(state, known, low, high, &fresh);
    if (backing == NULL) {
        return NULL;
    }
    bool has_file = backing->py_token != NULL;
    if (fresh && (has_file || slow) && add_owned(state, backing, owner) < 0) {
        Py_DECREF((PyObject *)backing);
        return NULL;
    }
    return backing;
}

Backing *
registry_find(State *state, PyArrayObject *array, const Owner *owner, char *low,
              char *high)
{
    return owner->kind == OWNER_MMAP ? find_mmap(state, array, owner, low, high)
                                     : find_other(state, owner, low, high);
}
