/* Owns the reader's side of a reference: which memory stands for the sender's.
 *
 * What is shared is mapped once a process; what is private once a task or
 * message, so that nobody sees what another has written.
 */
#include "receiver/source.h"

#include "errors.h"
#include "receiver/attach.h"
#include "receiver/budget.h"

#include <errno.h>
#include <unistd.h>

/* Up to this many bytes are read sooner than mapped: a mapping costs two system
 * calls, an object, and a fault for every page that is touched. */
#define COPY_MAX (1 << 15)

PyObject *
source_attach(PyObject *module, PyObject *args)
{
    State *state = PyModule_GetState(module);
    Reference reference;
    if (reference_decode(state, args, &reference) < 0) {
        return NULL;
    }
    Source *self = (Source *)PyType_GenericAlloc(state->source_type, 0);
    if (self == NULL) {
        return NULL;
    }
    self->state = state;
    self->reference = reference;
    Py_INCREF(reference.py_token);
    Py_INCREF(reference.py_path);
    self->fd = -1;
    return (PyObject *)self;
}

/* The kept descriptor still is one on the file: others may close all that a
 * process has, and then the number is somebody else's. */
static bool
is_kept(const Source *self)
{
    FileStatus status;
    return self->fd >= 0 && fileid_fstat(self->fd, &status) == 0 &&
           fileid_equal(&status.id, &self->reference.id);
}

/* A descriptor on the file for reading, which the caller gives to
 * `put_descriptor`; -1 with an exception. Meanwhile the source has none. */
static int
take_descriptor(Source *self)
{
    int fd = is_kept(self) ? self->fd : -1;
    self->state->kept_descriptors -= self->fd >= 0;
    self->fd = -1;
    return fd >= 0 ? fd : attach_open(self->state, &self->reference, false);
}

static void
put_descriptor(Source *self, int fd)
{
    if (self->fd < 0 && budget_has_descriptor(self->state)) {
        self->state->kept_descriptors++;
        self->fd = fd;
    } else {
        close(fd);
    }
}

/* New reference: a mapping of this source alone. */
static PyObject *
make_map(Source *self, bool private)
{
    bool writable = !private && access_writes_through(self->reference.access);
    int fd = writable ? attach_open(self->state, &self->reference, true)
                      : take_descriptor(self);
    if (fd < 0) {
        return NULL;
    }
    PyObject *map = attach_own(self->state, &self->reference, fd, private);
    if (writable) {
        close(fd);
    } else {
        put_descriptor(self, fd);
    }
    return map;
}

/* There is room for a mapping of this source alone. */
static bool
has_map(const Source *self)
{
    return budget_has_map(
        self->state, attach_keeps_descriptor(self->state, &self->reference));
}

/* The memory of all views is a copy of the whole file. */
static Memory *
copy_all(Source *self, Memory *memory)
{
    Memory copy = {0};
    if (source_make(self, 0, self->reference.length, false, &copy) < 0) {
        return NULL;
    }
    /* Another thread may have been quicker. */
    if (memory->owner == NULL) {
        *memory = copy;
    } else {
        memory_clear(&copy);
    }
    return memory;
}

Memory *
source_get(Source *self, SourceKind kind)
{
    Memory *memory = kind == SOURCE_SHARED ? &self->shared
                     : kind == SOURCE_OWN  ? &self->own
                                           : &self->private;
    if (memory->owner != NULL && memory_is_there(memory)) {
        return memory;
    }
    memory_clear(memory);
    if (kind == SOURCE_PRIVATE) {
        patches_renew(&self->patches);
    }
    if (kind == SOURCE_PRIVATE && self->reference.access & MAPPING_EXPORT &&
        !has_map(self)) {
        return copy_all(self, memory);
    }
    PyObject *map = kind == SOURCE_SHARED
                        ? attach_shared(self->state, &self->reference)
                        : make_map(self, kind == SOURCE_PRIVATE);
    if (map == NULL) {
        return NULL;
    }
    int result =
        memory->owner == NULL ? memory_of(self->state, map, memory) : 0;
    Py_DECREF(map);
    return result == 0 ? memory : NULL;
}

/* Reads the bytes of `memory` from the file: 0, or -1 with an exception. */
static int
read_bytes(Source *self, int fd, Memory *memory)
{
    const char *path = PyBytes_AsString(self->reference.py_path);
    char *at = memory->data;
    size_t left = (size_t)(memory->high - memory->low);
    off_t offset = (off_t)self->reference.file_offset + memory->low;
    while (left > 0) {
        ssize_t n;
        int error;
        Py_BEGIN_ALLOW_THREADS
        n = pread(fd, at, left, offset);
        error = errno;
        Py_END_ALLOW_THREADS
        if (n < 0 && error == EINTR && PyErr_CheckSignals() == 0) {
            continue;
        }
        if (n <= 0) {
            if (n == 0) {
                errors_set_truncated(self->state, path, offset + (off_t)left,
                                     offset);
            } else if (!PyErr_Occurred()) {
                errors_set_open(self->state, path, &self->reference.id, error);
            }
            return -1;
        }
        at += n;
        offset += n;
        left -= (size_t)n;
    }
    return 0;
}

/* Reads the offsets [low, high) into new memory: 0, or -1 with an exception. */
static int
copy_part(Source *self, npy_intp low, npy_intp high, Memory *memory)
{
    int result = -1;
    int fd = take_descriptor(self);
    if (fd >= 0 && memory_allocate(low, high, memory) == 0) {
        result = read_bytes(self, fd, memory);
    }
    if (fd >= 0) {
        put_descriptor(self, fd);
    }
    if (result < 0) {
        memory_clear(memory);
    }
    return result;
}

int
source_make(Source *self, npy_intp low, npy_intp high, bool may_copy,
            Memory *memory)
{
    int result = -1;
    if ((may_copy && high - low <= COPY_MAX) || !has_map(self)) {
        result = copy_part(self, low, high, memory);
    } else {
        PyObject *map = make_map(self, true);
        if (map != NULL) {
            result = memory_of(self->state, map, memory);
            Py_DECREF(map);
        } else if (attach_lacks_memory()) {
            /* All of the file would count; for the view there may be enough. */
            PyErr_Clear();
            result = copy_part(self, low, high, memory);
        }
    }
    if (result == 0) {
        patches_apply(&self->patches, low, high, memory_at(memory, low));
    }
    return result;
}

static void
source_dealloc(Source *self)
{
    PyTypeObject *type = Py_TYPE((PyObject *)self);
    memory_clear(&self->shared);
    memory_clear(&self->private);
    memory_clear(&self->own);
    patches_clear(&self->patches);
    if (is_kept(self)) {
        close(self->fd);
    }
    self->state->kept_descriptors -= self->fd >= 0;
    Py_XDECREF(self->reference.py_token);
    Py_XDECREF(self->reference.py_path);
    PyObject_Free(self);
    Py_DECREF(type);
}

static PyType_Slot source_slots[] = {
    {Py_tp_doc, "A mapping that a message names, while the message is read."},
    {Py_tp_dealloc, source_dealloc},
    {0, NULL},
};

PyType_Spec source_spec = {
    .name = "samemap._core.Source",
    .basicsize = sizeof(Source),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE |
             Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = source_slots,
};
