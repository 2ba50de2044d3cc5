/* Owns both directions of an identity; its grammar is in the header. */
#include "wire/identity.h"

#include <string.h>

#define ENCODED_SIZE 28

PyObject *
identity_encode(const FileId *id)
{
    char buffer[ENCODED_SIZE];
    memcpy(buffer, &id->dev, 8);
    memcpy(buffer + 8, &id->ino, 8);
    memcpy(buffer + 16, &id->birth_sec, 8);
    memcpy(buffer + 24, &id->birth_nsec, 4);
    return PyBytes_FromStringAndSize(buffer, ENCODED_SIZE);
}

int
identity_decode(PyObject *py_id, FileId *id)
{
    char *buffer;
    Py_ssize_t size;
    if (!PyBytes_CheckExact(py_id)) {
        PyErr_Format(PyExc_TypeError, "file identity must be bytes, not %R",
                     (PyObject *)Py_TYPE(py_id));
        return -1;
    }
    if (PyBytes_AsStringAndSize(py_id, &buffer, &size) < 0) {
        return -1;
    }
    if (size != ENCODED_SIZE) {
        PyErr_Format(PyExc_ValueError, "damaged file identity: %R", py_id);
        return -1;
    }
    memcpy(&id->dev, buffer, 8);
    memcpy(&id->ino, buffer + 8, 8);
    memcpy(&id->birth_sec, buffer + 16, 8);
    memcpy(&id->birth_nsec, buffer + 24, 4);
    return 0;
}
