/* Owns the mapping of a file that a message names: found again if this
 * process has it, else opened with care, checked and mapped once.
 */
#include "receiver/attach.h"

#include "backing.h"
#include "errors.h"
#include "message.h"
#include "os/descriptor.h"
#include "os/page.h"
#include "os/pagemap.h"
#include "registry.h"
#include "wire/identity.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

typedef struct {
    PyObject *py_token; /* borrowed, as the next */
    PyObject *py_path;
    const char *path;
    FileId id;
    Mapping wanted; /* without an address */
    long pid;
} Reference;

static int
check_bytes(PyObject *object, const char *name)
{
    if (PyBytes_CheckExact(object)) {
        return 0;
    }
    PyErr_Format(PyExc_TypeError, "%s must be bytes, not %R", name,
                 (PyObject *)Py_TYPE(object));
    return -1;
}

static int
parse(PyObject *args, Reference *ref)
{
    PyObject *py_id, *py_offset, *py_length, *py_access, *py_pid;
    char *locator;
    Py_ssize_t locator_size;
    if (!PyArg_ParseTuple(args, "OOOO!O!O!O!:attach", &ref->py_token,
                          &ref->py_path, &py_id, &PyLong_Type, &py_offset,
                          &PyLong_Type, &py_length, &PyLong_Type, &py_access,
                          &PyLong_Type, &py_pid)) {
        return -1;
    }
    if (check_bytes(ref->py_token, "token") < 0 ||
        check_bytes(ref->py_path, "path") < 0 ||
        identity_decode(py_id, &ref->id) < 0 ||
        PyBytes_AsStringAndSize(ref->py_path, &locator, &locator_size) < 0) {
        return -1;
    }
    long long offset = PyLong_AsLongLong(py_offset);
    long long length = PyLong_AsLongLong(py_length);
    long access = PyLong_AsLong(py_access);
    ref->pid = PyLong_AsLong(py_pid);
    if (PyErr_Occurred()) {
        if (PyErr_ExceptionMatches(PyExc_OverflowError)) {
            goto damaged;
        }
        return -1;
    }
    long long end;
    long long page = (long long)page_size();
    if (PyBytes_Size(ref->py_token) != TOKEN_SIZE || locator_size == 0 ||
        memchr(locator, '\0', (size_t)locator_size) != NULL || offset < 0 ||
        offset % page != 0 || length <= 0 || length > NPY_MAX_INTP ||
        __builtin_add_overflow(offset, length, &end) || access < 0 ||
        access > MAPPING_ALL_ACCESS || ref->pid <= 0) {
        goto damaged;
    }
    ref->path = locator;
    ref->wanted =
        (Mapping){NULL, (intptr_t)length, (uint64_t)offset, (unsigned)access};
    return 0;

damaged:
    PyErr_Format(PyExc_ValueError, "damaged reference to a mapping: %R", args);
    return -1;
}

/* Bytes that the file must have. */
static int64_t
end_in_file(const Reference *ref)
{
    return (int64_t)ref->wanted.file_offset + ref->wanted.length;
}

/* The address of an open mmap.mmap: 0, or -1 with an exception. */
static int
get_memory(PyObject *map, char **start, npy_intp *length)
{
    Py_buffer buffer;
    if (PyObject_GetBuffer(map, &buffer, PyBUF_SIMPLE) < 0) {
        return -1;
    }
    *start = buffer.buf;
    *length = buffer.len;
    PyBuffer_Release(&buffer);
    return 0;
}

static int
get_status(const char *path, FileStatus *status)
{
    int result;
    Py_BEGIN_ALLOW_THREADS
    result = fileid_stat(path, status);
    Py_END_ALLOW_THREADS
    return result;
}

static int
get_open_status(int fd, FileStatus *status)
{
    int result;
    Py_BEGIN_ALLOW_THREADS
    result = fileid_fstat(fd, status);
    Py_END_ALLOW_THREADS
    return result;
}

/* What was mapped before a fork may not be there after it (MADV_DONTFORK), and
 * its file may have become shorter since the sender looked. */
static bool
is_inherited_whole(State *state, const Backing *known)
{
    const Mapping *mapping = &known->mapping;
    uintptr_t low = (uintptr_t)mapping->start;
    uintptr_t high = low + (uintptr_t)mapping->length;
    FileStatus status;
    MapEntry entry;
    int found = maptable_find(&state->maptable, low, high, &entry);
    if (found == 0 ||
        (found == 1 && !reach_shows(&known->reach, mapping, &entry)) ||
        !pagemap_readable(low, low + 1) || !pagemap_readable(high - 1, high)) {
        return false;
    }
    int64_t end = (int64_t)mapping->file_offset + mapping->length;
    /* Held: another thread may find another way to the file meanwhile. */
    PyObject *py_path = Py_XNewRef(known->reach.path);
    bool shorter = py_path != NULL &&
                   get_status(PyBytes_AsString(py_path), &status) == 0 &&
                   fileid_equal(&status.id, &known->reach.id) &&
                   status.size < end;
    Py_XDECREF(py_path);
    return !shorter;
}

/* The memory of `known` still is what it was made of. */
static bool
is_mapped(State *state, const Backing *known, PyObject *owner)
{
    char *start;
    npy_intp length;
    MapEntry entry;
    if (known->place.inherited && !is_inherited_whole(state, known)) {
        return false;
    }
    if (!PyObject_TypeCheck(owner, state->mmap_type)) {
        /* Any other owner may have unmapped it, or mapped it anew. */
        uintptr_t low = (uintptr_t)known->mapping.start;
        return maptable_find(&state->maptable, low,
                             low + (uintptr_t)known->mapping.length,
                             &entry) == 1 &&
               reach_shows(&known->reach, &known->mapping, &entry);
    }
    if (get_memory(owner, &start, &length) < 0) {
        PyErr_Clear(); /* closed by the user: its arrays dangle */
        return false;
    }
    return start == known->mapping.start && length == known->mapping.length;
}

/* New reference: the memory of this process that the token names, if it still
 * is what the message says: an mmap.mmap, or (owner, backing) for an owner
 * that may have more than one. NULL without an exception otherwise.
 * A private map is never shared: its pages are one sender's. */
static PyObject *
find_known(State *state, const Reference *ref)
{
    if (mapping_is_private(&ref->wanted)) {
        return NULL;
    }
    Backing *known = registry_of_token(state, ref->py_token);
    if (known == NULL || known->place.owner_ref == NULL ||
        known->mapping.length != ref->wanted.length ||
        known->mapping.file_offset != ref->wanted.file_offset ||
        !fileid_equal(&known->reach.id, &ref->id)) {
        return NULL;
    }
    Py_INCREF((PyObject *)known);
    PyObject *owner = PyObject_CallNoArgs(known->place.owner_ref);
    if (owner == Py_None) { /* about to be forgotten */
        Py_CLEAR(owner);
    }
    if (owner != NULL && !is_mapped(state, known, owner)) {
        registry_remove(state, known);
        Py_CLEAR(owner);
    }
    if (owner != NULL && !PyObject_TypeCheck(owner, state->mmap_type)) {
        core_set(&owner, PyTuple_Pack(2, owner, (PyObject *)known));
    }
    Py_DECREF((PyObject *)known);
    return owner;
}

/* A descriptor on the file, or -1 with an exception. */
static int
find_file(State *state, const Reference *ref, FileStatus *status)
{
    FileStatus other;
    bool writable = mapping_writes_through(&ref->wanted);
    int fd, found = -1;
    Py_BEGIN_ALLOW_THREADS
    fd = fileid_open(ref->path, writable, status);
    Py_END_ALLOW_THREADS
    int error = errno;
    if (fd >= 0 && fileid_equal(&status->id, &ref->id)) {
        return fd;
    }
    /* Unlinked or replaced since: the sender may still have it open. */
    if (fd >= 0 || error == ENOENT || error == ENOTDIR || error == EINVAL) {
        Py_BEGIN_ALLOW_THREADS
        found = descriptor_open_of(ref->pid, &ref->id, writable, &other);
        Py_END_ALLOW_THREADS
        if (found >= 0) {
            if (fd >= 0) {
                close(fd);
            }
            *status = other;
            return found;
        }
    }
    if (fd < 0) {
        errors_set_open(state, ref->path, &ref->id, error);
        return -1;
    }
    close(fd);
    errors_set_replaced(state, ref->path, &ref->id, &status->id);
    return -1;
}

/* A descriptor on the file, which is as long as the map needs, or -1 with an
 * exception. */
static int
open_file(State *state, const Reference *ref)
{
    FileStatus status;
    int64_t end = end_in_file(ref);
    int fd = find_file(state, ref, &status);
    if (fd >= 0 && status.size < end) {
        errors_set_truncated(state, ref->path, end, status.size);
        close(fd);
        return -1;
    }
    return fd;
}

/* Makes a typed error of what mmap.mmap has raised, where it is about the file:
 * that was as long as the map a moment ago. */
static void
set_map_error(State *state, const Reference *ref, int fd)
{
    PyObject *type, *error, *traceback;
    FileStatus status;
    int64_t end = end_in_file(ref);
    if (PyErr_ExceptionMatches(PyExc_ValueError) &&
        get_open_status(fd, &status) == 0 && status.size < end) {
        PyErr_Clear();
        errors_set_truncated(state, ref->path, end, status.size);
    } else if (PyErr_ExceptionMatches(PyExc_OSError)) {
        PyErr_Fetch(&type, &error, &traceback);
        PyErr_NormalizeException(&type, &error, &traceback);
        PyObject *py_errno = PyObject_GetAttrString(error, "errno");
        long number = py_errno != NULL && PyLong_Check(py_errno)
                          ? PyLong_AsLong(py_errno)
                          : 0;
        Py_XDECREF(py_errno);
        Py_XDECREF(type);
        Py_XDECREF(error);
        Py_XDECREF(traceback);
        PyErr_Clear();
        errors_set_open(state, ref->path, &ref->id, (int)number);
    }
}

/* New reference: mmap.mmap(fd, length, flags=..., prot=..., offset=...). */
static PyObject *
map_file(State *state, const Reference *ref, int fd)
{
    bool private = mapping_is_private(&ref->wanted);
    PyObject *map = NULL;
    PyObject *args = Py_BuildValue("in", fd, (Py_ssize_t)ref->wanted.length);
    PyObject *kwargs = Py_BuildValue(
        "{sOsOsK}", "flags", private ? state->mmap_private : state->mmap_shared,
        "prot",
        mapping_is_writable(&ref->wanted) ? state->prot_write
                                          : state->prot_read,
        "offset", (unsigned long long)ref->wanted.file_offset);
    if (args == NULL || kwargs == NULL) {
        goto done;
    }
    /* Before 3.13 every mmap.mmap keeps a descriptor of its own. */
    if (state->mmap_has_trackfd &&
        PyDict_SetItemString(kwargs, "trackfd", Py_False) < 0) {
        goto done;
    }
    map = PyObject_Call((PyObject *)state->mmap_type, args, kwargs);
    if (map == NULL) {
        set_map_error(state, ref, fd);
    }
done:
    Py_XDECREF(args);
    Py_XDECREF(kwargs);
    return map;
}

/* New reference: a new mapping, or that of another thread that was quicker
 * while this one waited for the system. */
static PyObject *
map_and_register(State *state, const Reference *ref, int fd)
{
    char *start;
    npy_intp length;
    Backing *backing = NULL;
    PyObject *map = map_file(state, ref, fd);
    if (map == NULL) {
        return NULL;
    }
    PyObject *known = find_known(state, ref);
    if (known != NULL || PyErr_Occurred()) {
        Py_DECREF(map);
        return known;
    }
    if (get_memory(map, &start, &length) < 0) {
        goto error;
    }
    Mapping mapping = ref->wanted;
    mapping.start = start;
    mapping.length = length;
    backing = backing_new_attached(state, &mapping, &ref->id, ref->py_path,
                                   ref->py_token, ref->pid);
    if (backing == NULL ||
        registry_add(state, backing, map, !mapping_is_private(&mapping)) < 0) {
        goto error;
    }
    Py_DECREF((PyObject *)backing);
    return map;

error:
    Py_XDECREF((PyObject *)backing);
    Py_DECREF(map);
    return NULL;
}

static PyObject *
attach(State *state, const Reference *ref)
{
    PyObject *map = find_known(state, ref);
    if (map != NULL || PyErr_Occurred()) {
        return map;
    }
    int fd = open_file(state, ref);
    if (fd < 0) {
        return NULL;
    }
    map = map_and_register(state, ref, fd);
    close(fd);
    return map;
}

PyObject *
attach_call(PyObject *module, PyObject *args)
{
    State *state = PyModule_GetState(module);
    Reference ref;
    PyObject *map = NULL;
    if (parse(args, &ref) == 0) {
        map = attach(state, &ref);
    }
    return map != NULL ? map : message_note(state);
}
