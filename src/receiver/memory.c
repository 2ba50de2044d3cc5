/* Owns the memory of views: who keeps it, and which offsets it has. */
#include "receiver/memory.h"

#include "registry.h"

#include <string.h>

/* Of what the data of a bytearray begin at (malloc), so also of the copies
 * here. */
#define ALIGNMENT 16

int
memory_of(State *state, PyObject *owner, Memory *memory)
{
    Py_buffer buffer;
    Backing *backing = NULL;
    bool is_map = Py_TYPE(owner) == state->mmap_type;
    if (!is_map && !PyBytes_CheckExact(owner) &&
        !PyByteArray_CheckExact(owner)) {
        PyErr_Format(PyExc_TypeError, "an array can't be rebuilt on %R",
                     (PyObject *)Py_TYPE(owner));
        return -1;
    }
    if (PyObject_GetBuffer(owner, &buffer, PyBUF_SIMPLE) < 0) {
        return -1;
    }
    if (is_map) {
        backing = registry_of_owner(state, owner);
    }
    memory->owner = Py_NewRef(owner);
    memory->backing = (Backing *)Py_XNewRef((PyObject *)backing);
    memory->data = buffer.buf;
    memory->low = 0;
    memory->high = buffer.len;
    memory->writable = !buffer.readonly;
    memory->root = NULL;
    /* As NumPy does: an array keeps its mmap alive, but not its export. */
    PyBuffer_Release(&buffer);
    return 0;
}

int
memory_allocate(npy_intp low, npy_intp high, Memory *memory)
{
    npy_intp pad = low % ALIGNMENT;
    PyObject *bytes = PyByteArray_FromStringAndSize(NULL, pad + (high - low));
    if (bytes == NULL) {
        return -1;
    }
    memset(PyByteArray_AsString(bytes), 0, (size_t)pad);
    memory->owner = bytes;
    memory->backing = NULL;
    memory->data = PyByteArray_AsString(bytes) + pad;
    memory->low = low;
    memory->high = high;
    memory->writable = true;
    memory->root = NULL;
    return 0;
}

bool
memory_is_there(const Memory *memory)
{
    Py_buffer buffer;
    if (memory->backing == NULL) {
        return true;
    }
    if (PyObject_GetBuffer(memory->owner, &buffer, PyBUF_SIMPLE) < 0) {
        PyErr_Clear(); /* closed */
        return false;
    }
    bool same = buffer.buf == memory->data && buffer.len == memory->high;
    PyBuffer_Release(&buffer);
    return same;
}

void
memory_share(const Memory *memory, Memory *other)
{
    *other = *memory;
    Py_XINCREF(other->owner);
    Py_XINCREF((PyObject *)other->backing);
    Py_XINCREF(other->root);
}

void
memory_clear(Memory *memory)
{
    Py_CLEAR(memory->root);
    Py_CLEAR(memory->owner);
    Py_CLEAR(memory->backing);
}
