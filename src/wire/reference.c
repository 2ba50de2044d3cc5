/* Owns both directions of a reference; its grammar is in the header. */
#include "wire/reference.h"

#include "os/page.h"
#include "wire/identity.h"

#include <string.h>

PyObject *
reference_encode(State *state, const Reference *reference)
{
    PyObject *identity = identity_encode(&reference->id);
    if (identity == NULL) {
        return NULL;
    }
    return Py_BuildValue("O(iOONKnIl)", state->attach, MESSAGE_VERSION,
                         reference->py_token, reference->py_path, identity,
                         (unsigned long long)reference->file_offset,
                         reference->length, reference->access, reference->pid);
}

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

/* The version comes first, and is all that other versions have in common. */
static int
check_version(State *state, PyObject *args)
{
    PyObject *first =
        PyTuple_Size(args) > 0 ? PyTuple_GetItem(args, 0) : Py_None;
    long version = PyLong_CheckExact(first) ? PyLong_AsLong(first) : 0;
    if (version == MESSAGE_VERSION) {
        return 0;
    }
    PyErr_Clear(); /* a number that is no long */
    PyErr_Format(
        state->version_error,
        "the message has version %R, this samemap reads version %d: the same "
        "samemap must be installed on both sides",
        first, MESSAGE_VERSION);
    return -1;
}

int
reference_decode(State *state, PyObject *args, Reference *reference)
{
    PyObject *py_version, *py_id, *py_offset, *py_length, *py_access, *py_pid;
    char *path;
    Py_ssize_t path_size;
    if (check_version(state, args) < 0 ||
        !PyArg_ParseTuple(args, "OOOOO!O!O!O!:attach", &py_version,
                          &reference->py_token, &reference->py_path, &py_id,
                          &PyLong_Type, &py_offset, &PyLong_Type, &py_length,
                          &PyLong_Type, &py_access, &PyLong_Type, &py_pid)) {
        return -1;
    }
    if (check_bytes(reference->py_token, "token") < 0 ||
        check_bytes(reference->py_path, "path") < 0 ||
        identity_decode(py_id, &reference->id) < 0 ||
        PyBytes_AsStringAndSize(reference->py_path, &path, &path_size) < 0) {
        return -1;
    }
    long long offset = PyLong_AsLongLong(py_offset);
    long long length = PyLong_AsLongLong(py_length);
    long access = PyLong_AsLong(py_access);
    reference->pid = PyLong_AsLong(py_pid);
    if (PyErr_Occurred()) {
        if (PyErr_ExceptionMatches(PyExc_OverflowError)) {
            goto damaged;
        }
        return -1;
    }
    long long end;
    if (PyBytes_Size(reference->py_token) != TOKEN_SIZE || path_size == 0 ||
        memchr(path, '\0', (size_t)path_size) != NULL || offset < 0 ||
        offset % (long long)page_size() != 0 || length <= 0 ||
        length > NPY_MAX_INTP || __builtin_add_overflow(offset, length, &end) ||
        !access_is_valid(access) || reference->pid <= 0) {
        goto damaged;
    }
    reference->file_offset = (uint64_t)offset;
    reference->length = (npy_intp)length;
    reference->access = (unsigned)access;
    return 0;

damaged:
    PyErr_Format(PyExc_ValueError, "damaged reference to a mapping: %R", args);
    return -1;
}
