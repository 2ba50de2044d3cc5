/* Owns the opening and mapping of a file that a message names: opened with
 * care, checked, and for what is shared mapped once.
 */
#include "receiver/attach.h"

#include "backing.h"
#include "errors.h"
#include "os/descriptor.h"
#include "os/limits.h"
#include "os/memfile.h"
#include "receiver/lost.h"
#include "registry.h"

#include <errno.h>
#include <unistd.h>

static const char *
path_of(const Reference *reference)
{
    return PyBytes_AsString(reference->py_path);
}

static int64_t
end_of(const Reference *reference)
{
    return (int64_t)reference->file_offset + reference->length;
}

/* A descriptor on the file, or -1 with an exception. */
static int
find_file(State *state, const Reference *reference, bool writable,
          FileStatus *status)
{
    FileStatus other;
    const char *path = path_of(reference);
    int fd, error, found = -1;
    Py_BEGIN_ALLOW_THREADS
    fd = fileid_open(path, writable, status);
    error = errno;
    /* Unlinked or replaced since: the sender may still have it open. */
    if (fd >= 0 ? !fileid_equal(&status->id, &reference->id)
                : error == ENOENT || error == ENOTDIR || error == EINVAL) {
        found = descriptor_open_of(reference->pid, &reference->id, writable,
                                   &other);
    }
    Py_END_ALLOW_THREADS
    if (found >= 0) {
        if (fd >= 0) {
            close(fd);
        }
        *status = other;
        return found;
    }
    if (fd < 0) {
        errors_set_open(state, path, &reference->id, error);
        return -1;
    }
    if (fileid_equal(&status->id, &reference->id)) {
        return fd;
    }
    close(fd);
    errors_set_replaced(state, path, &reference->id, &status->id);
    return -1;
}

int
attach_open(State *state, const Reference *reference, bool writable)
{
    FileStatus status;
    int fd = find_file(state, reference, writable, &status);
    if (fd >= 0 && status.size < end_of(reference)) {
        errors_set_truncated(state, path_of(reference), end_of(reference),
                             status.size);
        close(fd);
        return -1;
    }
    return fd;
}

/* The number of the OSError that is set, or 0. */
static int
raised_errno(void)
{
    PyObject *type, *error, *traceback;
    if (!PyErr_ExceptionMatches(PyExc_OSError)) {
        return 0;
    }
    PyErr_Fetch(&type, &error, &traceback);
    PyErr_NormalizeException(&type, &error, &traceback);
    PyObject *py_errno = PyObject_GetAttrString(error, "errno");
    long number = py_errno != NULL && PyLong_Check(py_errno)
                      ? PyLong_AsLong(py_errno)
                      : 0;
    Py_XDECREF(py_errno);
    PyErr_Clear();
    PyErr_Restore(type, error, traceback);
    return (int)number;
}

/* Makes a typed error of what mmap.mmap has raised, where it is about the file:
 * that was as long as the map a moment ago. */
static void
set_map_error(State *state, const Reference *reference, int fd)
{
    FileStatus status;
    if (PyErr_ExceptionMatches(PyExc_ValueError) &&
        fileid_fstat(fd, &status) == 0 && status.size < end_of(reference)) {
        PyErr_Clear();
        errors_set_truncated(state, path_of(reference), end_of(reference),
                             status.size);
    } else if (PyErr_ExceptionMatches(PyExc_OSError)) {
        int number = raised_errno();
        PyErr_Clear();
        errors_set_open(state, path_of(reference), &reference->id, number);
    }
}

/* A memory file: it has no name, and may be sent on when its maker is gone. */
static bool
has_maker_only(const Reference *reference)
{
    return reference->access & (MAPPING_REQUESTED | MAPPING_EXPORT);
}

bool
attach_keeps_descriptor(State *state, const Reference *reference)
{
    return !state->mmap_has_trackfd || has_maker_only(reference);
}

/* New reference: mmap.mmap(fd, length, flags=..., prot=..., offset=...). NULL
 * with what that has raised. */
static PyObject *
map_file(State *state, const Reference *reference, int fd, bool private,
         bool writable)
{
    MemfileHole hole;
    PyObject *map = NULL;
    PyObject *args = Py_BuildValue("in", fd, reference->length);
    PyObject *kwargs = Py_BuildValue(
        "{sOsOsK}", "flags", private ? state->mmap_private : state->mmap_shared,
        "prot", writable ? state->prot_write : state->prot_read, "offset",
        (unsigned long long)reference->file_offset);
    if (args == NULL || kwargs == NULL) {
        goto done;
    }
    /* Before 3.13 every mmap.mmap keeps a descriptor of its own. */
    if (!attach_keeps_descriptor(state, reference) &&
        PyDict_SetItemString(kwargs, "trackfd", Py_False) < 0) {
        goto done;
    }
    /* On large pages, if the file has any. */
    memfile_reserve(&hole,
                    has_maker_only(reference) ? (size_t)reference->length : 0);
    map = PyObject_Call((PyObject *)state->mmap_type, args, kwargs);
    memfile_release(&hole);
done:
    Py_XDECREF(args);
    Py_XDECREF(kwargs);
    return map;
}

/* Enters a new map, as the one that the token names or as one more: 0 or -1. */
static int
enter(State *state, const Reference *reference, PyObject *map, unsigned access,
      bool by_token)
{
    Py_buffer buffer;
    if (PyObject_GetBuffer(map, &buffer, PyBUF_SIMPLE) < 0) {
        return -1;
    }
    Mapping mapping = {buffer.buf, buffer.len, reference->file_offset, access};
    PyBuffer_Release(&buffer);
    /* The descriptor that a result was made with is closed soon: the way to
     * it is that of its map, which has to be looked for. */
    bool is_export = reference->access & MAPPING_EXPORT;
    PyObject *path = is_export ? PyBytes_FromStringAndSize(NULL, 0)
                               : Py_NewRef(reference->py_path);
    if (path == NULL) {
        return -1;
    }
    Backing *backing =
        backing_new_attached(state, &mapping, &reference->id, path,
                             by_token ? reference->py_token : NULL,
                             is_export ? (long)getpid() : reference->pid);
    Py_DECREF(path);
    if (backing == NULL) {
        return -1;
    }
    int result = registry_add(state, backing, map, by_token);
    if (result == 0 && !by_token) {
        registry_count(state, backing);
    }
    if (result == 0 && is_export) {
        result = lost_note(state, backing);
    }
    Py_DECREF((PyObject *)backing);
    return result;
}

PyObject *
attach_shared(State *state, const Reference *reference)
{
    bool writable = access_writes_through(reference->access);
    PyObject *map =
        registry_find_map(state, reference->py_token, reference->length,
                          reference->file_offset, &reference->id);
    if (map != NULL || PyErr_Occurred()) {
        return map;
    }
    int fd = attach_open(state, reference, writable);
    if (fd < 0) {
        return NULL;
    }
    map = map_file(state, reference, fd, false, writable);
    if (map == NULL) {
        set_map_error(state, reference, fd);
    }
    close(fd);
    if (map == NULL) {
        return NULL;
    }
    /* Another thread may have been quicker while this one waited for the
     * system. */
    PyObject *known =
        registry_find_map(state, reference->py_token, reference->length,
                          reference->file_offset, &reference->id);
    if (known != NULL || PyErr_Occurred() ||
        enter(state, reference, map,
              (writable ? MAPPING_WRITABLE : 0) |
                  (reference->access & MAPPING_REQUESTED),
              true) < 0) {
        core_set(&map, known);
    }
    return map;
}

bool
attach_lacks_memory(void)
{
    return raised_errno() == ENOMEM;
}

PyObject *
attach_own(State *state, const Reference *reference, int fd, bool private)
{
    bool writable = private || access_writes_through(reference->access);
    PyObject *map = map_file(state, reference, fd, private, writable);
    if (map == NULL && private && reference->access & MAPPING_EXPORT &&
        attach_lacks_memory()) {
        /* Pages that may be written count against RLIMIT_DATA and, with strict
         * overcommit, all memory. Read-only, as a dump would be, it goes. */
        PyErr_Clear();
        writable = false;
        map = map_file(state, reference, fd, private, writable);
    }
    if (map == NULL) {
        set_map_error(state, reference, fd);
        return NULL;
    }
    unsigned access =
        (writable ? MAPPING_WRITABLE : 0) | (private ? MAPPING_PRIVATE : 0);
    if (enter(state, reference, map, access, false) < 0) {
        Py_CLEAR(map);
    }
    return map;
}

int
attach_init(State *state)
{
    PyObject *hex = state_import("sys", "hexversion");
    long read, write;
    PyObject *py_write = NULL, *py_private = NULL;
    int result = -1;
    state->mmap_shared = state_import("mmap", "MAP_SHARED");
    py_private = state_import("mmap", "MAP_PRIVATE");
    state->prot_read = state_import("mmap", "PROT_READ");
    py_write = state_import("mmap", "PROT_WRITE");
    if (hex == NULL || state->mmap_shared == NULL || py_private == NULL ||
        state->prot_read == NULL || py_write == NULL) {
        goto done;
    }
    /* Views of a file that is larger than the memory: they write to a few of
     * its pages at most. */
    state->mmap_private =
        PyLong_FromLong(PyLong_AsLong(py_private) | limits_unreserved());
    read = PyLong_AsLong(state->prot_read);
    write = PyLong_AsLong(py_write);
    state->prot_write = PyLong_FromLong(read | write);
    state->mmap_has_trackfd = PyLong_AsLong(hex) >= 0x030D0000;
    result = state->prot_write != NULL && state->mmap_private != NULL &&
                     !PyErr_Occurred()
                 ? 0
                 : -1;
done:
    Py_XDECREF(hex);
    Py_XDECREF(py_private);
    Py_XDECREF(py_write);
    return result;
}
