/* Owns the two tables of known mappings. Invariant: nothing here keeps a
 * mapping alive. The tables hold backings, a backing holds its owner weakly,
 * and the owner's death takes the backing out.
 */
#include "registry.h"

#include <string.h>

static PyObject *
forget(PyObject *self, PyObject *Py_UNUSED(reference))
{
    Backing *backing = (Backing *)self;
    registry_remove(backing->state, backing);
    Py_RETURN_NONE;
}

static PyMethodDef forget_method = {"forget", forget, METH_O, NULL};

/* Where the pointer to `backing` among those of its owner stands; NULL when it
 * is not there. *head is the first of them, borrowed. */
static Backing **
find_link(State *state, const Backing *backing, Backing **head)
{
    *head = NULL;
    if (backing->place.py_owner_key != NULL) {
        *head = (Backing *)PyDict_GetItemWithError(state->by_owner,
                                                   backing->place.py_owner_key);
    }
    Backing **link = head;
    while (*link != NULL && *link != backing) {
        link = &(*link)->place.sibling;
    }
    return *link != NULL ? link : NULL;
}

/* Takes `backing` out of by_owner, if it is there. */
static int
unlink_owned(State *state, Backing *backing)
{
    Backing *head;
    Backing **link = find_link(state, backing, &head);
    if (link == NULL) {
        return 0;
    }
    Backing *rest = backing->place.sibling;
    if (backing != head) {
        *link = rest;
        backing->place.sibling = NULL;
        Py_DECREF((PyObject *)backing);
        return 0;
    }
    int result =
        rest == NULL
            ? PyDict_DelItem(state->by_owner, backing->place.py_owner_key)
            : PyDict_SetItem(state->by_owner, backing->place.py_owner_key,
                             (PyObject *)rest);
    if (result == 0) {
        Py_CLEAR(backing->place.sibling);
    }
    return result;
}

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
    if (unlink_owned(state, backing) < 0) {
        PyErr_WriteUnraisable((PyObject *)backing);
    }
    if (backing->place.py_token != NULL &&
        PyDict_GetItemWithError(state->by_token, backing->place.py_token) ==
            (PyObject *)backing &&
        PyDict_DelItem(state->by_token, backing->place.py_token) < 0) {
        PyErr_WriteUnraisable((PyObject *)backing);
    }
    if (backing->place.counted) {
        backing->place.counted = false;
        state->own_maps--;
    }
    Py_CLEAR(backing->place.owner_ref);
    memmap_forget(&backing->header);
    Py_DECREF((PyObject *)backing);
}

int
registry_add(State *state, Backing *backing, PyObject *owner, bool by_token)
{
    PyObject *callback = PyCFunction_New(&forget_method, (PyObject *)backing);
    if (callback == NULL) {
        return -1;
    }
    assert(backing->place.owner_ref == NULL && backing->place.sibling == NULL);
    assert(!by_token || backing->place.py_token != NULL);
    backing->place.owner_ref = PyWeakref_NewRef(owner, callback);
    Py_DECREF(callback);
    if (backing->place.owner_ref == NULL) {
        return -1;
    }
    backing->place.owner_address = owner;
    PyObject *key = PyLong_FromVoidPtr(owner);
    if (key == NULL) {
        goto error;
    }
    core_set(&backing->place.py_owner_key, key);
    backing->place.sibling =
        (Backing *)Py_XNewRef((PyObject *)registry_of_owner(state, owner));
    if (PyDict_SetItem(state->by_owner, key, (PyObject *)backing) < 0) {
        Py_CLEAR(backing->place.sibling);
        goto error;
    }
    if (by_token && PyDict_SetItem(state->by_token, backing->place.py_token,
                                   (PyObject *)backing) < 0) {
        goto error;
    }
    return 0;

error:
    registry_remove(state, backing);
    return -1;
}

PyObject *
registry_new_token(State *state)
{
    char token[TOKEN_SIZE];
    uint64_t count = ++state->token_count;
    memcpy(token, state->token_prefix, sizeof(state->token_prefix));
    memcpy(token + sizeof(state->token_prefix), &count, sizeof(count));
    return PyBytes_FromStringAndSize(token, TOKEN_SIZE);
}

int
registry_name(State *state, Backing *backing)
{
    backing->place.py_token = registry_new_token(state);
    return backing->place.py_token != NULL ? 0 : -1;
}

void
registry_name_as(Backing *backing, PyObject *py_token)
{
    backing->place.py_token = Py_NewRef(py_token);
    backing->place.given = true;
}

void
registry_clear_place(Place *place)
{
    Py_CLEAR(place->owner_ref);
    Py_CLEAR(place->sibling);
}

void
registry_free_place(Place *place)
{
    Py_CLEAR(place->py_owner_key);
    Py_CLEAR(place->py_token);
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

/* The memory of `known` still is what it was made of, and `owner` keeps it. */
static bool
is_mapped(const Backing *known, PyObject *owner)
{
    int same = backing_is_memory_of(known, owner);
    if (same < 0) {
        PyErr_Clear(); /* closed by the user: its arrays dangle */
    }
    return same > 0;
}

/* New reference: the mmap.mmap that is the owner. NULL, maybe with an
 * exception: about to be forgotten, or one that may map something else at any
 * time. */
static PyObject *
get_mmap(const Backing *known)
{
    PyObject *owner = PyObject_CallNoArgs(known->place.owner_ref);
    if (owner != NULL && !PyObject_TypeCheck(owner, known->state->mmap_type)) {
        Py_CLEAR(owner);
    }
    return owner;
}

PyObject *
registry_find_map(State *state, PyObject *py_token, intptr_t length,
                  uint64_t file_offset, const FileId *id)
{
    Backing *known =
        (Backing *)PyDict_GetItemWithError(state->by_token, py_token);
    if (known == NULL || known->place.owner_ref == NULL ||
        !known->place.given || known->mapping.length != length ||
        known->mapping.file_offset != file_offset ||
        !fileid_equal(&known->reach.id, id)) {
        return NULL;
    }
    Py_INCREF((PyObject *)known);
    PyObject *owner = get_mmap(known);
    if (owner != NULL && !is_mapped(known, owner)) {
        registry_remove(state, known);
        Py_CLEAR(owner);
    }
    Py_DECREF((PyObject *)known);
    return owner;
}

PyObject *
registry_get_owner(const Backing *backing)
{
    PyObject *owner =
        backing->place.owner_ref != NULL ? get_mmap(backing) : NULL;
    if (owner != NULL && !is_mapped(backing, owner)) {
        Py_CLEAR(owner);
    }
    PyErr_Clear();
    return owner;
}

void
registry_count(State *state, Backing *backing)
{
    backing->place.counted = true;
    state->own_maps++;
}

size_t
registry_count_all(State *state)
{
    PyObject *key, *backing;
    Py_ssize_t position = 0;
    size_t count = 0;
    while (PyDict_Next(state->by_owner, &position, &key, &backing)) {
        for (Backing *each = (Backing *)backing; each != NULL;
             each = each->place.sibling) {
            count++;
        }
    }
    return count;
}

void
registry_after_fork(State *state)
{
    PyDict_Clear(state->by_token);
}

int
registry_init(State *state)
{
    state->by_owner = PyDict_New();
    state->by_token = PyDict_New();
    if (state->by_owner == NULL || state->by_token == NULL) {
        return -1;
    }
    return registry_new_prefix(state);
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
