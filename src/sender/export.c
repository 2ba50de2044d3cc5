/* Owns memory files from their making to their closing.
 *
 * All that are open are in State.exports, which is read and changed under the
 * GIL: a forked child closes what is there, or a living child would keep the
 * memory of its parent's.
 */
#include "sender/export.h"

#include "mapping.h"
#include "os/clock.h"
#include "os/descriptor.h"
#include "os/room.h"
#include "registry.h"
#include "wire/reference.h"

#include <errno.h>
#include <stdio.h>
#include <unistd.h>

/* Milliseconds for which the room that was found is counted down instead of
 * looked up again. */
#define ROOM_AGE 50

#define PATH_SIZE 64

/* There is room for so many bytes: in the file or, if that is NULL, in memory.
 */
static bool
has_room(Room *room, const MemFile *file, npy_intp size)
{
    uint64_t now = clock_milliseconds();
    if (now - room->time > ROOM_AGE || room->bytes / 4 < size) {
        int64_t bytes;
        Py_BEGIN_ALLOW_THREADS
        bytes = file != NULL ? memfile_room(file) : room_in_memory("");
        Py_END_ALLOW_THREADS
        *room = (Room){bytes, now};
    }
    return room->bytes >= size;
}

bool
export_has_memory(State *state, npy_intp size)
{
    return has_room(&state->memory_room, NULL, size);
}

static Reason
reason_of(int error)
{
    return error == EFBIG || error == ENOSPC || error == ENOMEM
               ? REASON_NO_ROOM
               : REASON_NO_MEMFILE;
}

/* Closes the descriptor, if it is the file's: others may close all that a
 * process has, and then the number is somebody else's. */
static void
close_file(Export *self)
{
    FileStatus status;
    int fd = self->file.fd;
    self->file.fd = -1;
    if (fd >= 0 && fileid_fstat(fd, &status) == 0 &&
        fileid_equal(&status.id, &self->id)) {
        close(fd);
    }
}

Export *
export_new(State *state, const char *folder, npy_intp size, bool sealable,
           Reason *reason)
{
    FileStatus status;
    char path[PATH_SIZE];
    Export *self = (Export *)PyType_GenericAlloc(state->export_type, 0);
    if (self == NULL) {
        return NULL;
    }
    self->state = state;
    self->file = (MemFile)MEMFILE_INIT;
    /* With the GIL until the list has it. */
    if (memfile_create(&self->file, folder, size) < 0) {
        *reason = reason_of(errno);
        Py_DECREF((PyObject *)self);
        return NULL;
    }
    /* Numbers are given from below: it tells how many are in use. */
    if ((sealable && !self->file.sealable) ||
        descriptor_is_scarce((size_t)self->file.fd) ||
        fileid_fstat(self->file.fd, &status) < 0 ||
        !descriptor_path(self->file.fd, path, sizeof(path))) {
        memfile_close(&self->file);
        *reason = REASON_NO_MEMFILE;
        Py_DECREF((PyObject *)self);
        return NULL;
    }
    self->id = status.id;
    self->next = state->exports;
    state->exports = self;
    return self;
}

Reason
export_fill(Export *self, npy_intp offset, const char *data, npy_intp length)
{
    int result, error;
    State *state = self->state;
    const MemFile file = self->file;
    if (!has_room(&state->file_room, &file, length)) {
        return REASON_NO_ROOM;
    }
    state->file_room.bytes -= length;
    Py_BEGIN_ALLOW_THREADS
    result =
        memfile_fill(&file, &state->large_pages, offset, data, (size_t)length);
    error = errno;
    Py_END_ALLOW_THREADS
    return result == 0 ? REASON_NONE : reason_of(error);
}

Reason
export_seal(Export *self, bool shrink)
{
    return memfile_seal(&self->file, shrink) == 0 ? REASON_NONE
                                                  : reason_of(errno);
}

bool
export_holds(const Export *self, npy_intp offset, const char *data,
             npy_intp length)
{
    bool result;
    const MemFile file = self->file;
    Py_BEGIN_ALLOW_THREADS
    result = memfile_equals(&file, offset, data, (size_t)length);
    Py_END_ALLOW_THREADS
    return result;
}

void
export_after_fork(State *state)
{
    while (state->exports != NULL) {
        Export *export = state->exports;
        state->exports = export->next;
        close_file(export);
    }
}

static PyObject *
export_reduce(Export *self, PyObject *Py_UNUSED(ignored))
{
    char path[PATH_SIZE];
    PyObject *result = NULL;
    snprintf(path, sizeof(path), "/proc/%ld/fd/%d", (long)getpid(),
             self->file.fd);
    Reference reference = {
        .py_token = registry_new_token(self->state),
        .py_path = PyBytes_FromString(path),
        .id = self->id,
        .length = (npy_intp)self->file.size,
        .access = MAPPING_WRITABLE | MAPPING_PRIVATE | MAPPING_EXPORT,
        .pid = (long)getpid(),
    };
    if (reference.py_token != NULL && reference.py_path != NULL) {
        result = reference_encode(self->state, &reference);
    }
    Py_XDECREF(reference.py_token);
    Py_XDECREF(reference.py_path);
    return result;
}

static void
export_dealloc(Export *self)
{
    PyTypeObject *type = Py_TYPE((PyObject *)self);
    for (Export **link = &self->state->exports; *link != NULL;
         link = &(*link)->next) {
        if (*link == self) {
            *link = self->next;
            break;
        }
    }
    /* Freeing its pages may take a while. */
    Py_BEGIN_ALLOW_THREADS
    close_file(self);
    Py_END_ALLOW_THREADS
    PyObject_Free(self);
    Py_DECREF(type);
}

static PyMethodDef export_methods[] = {
    {"__reduce__", (PyCFunction)export_reduce, METH_NOARGS,
     "How the reader of a message attaches the memory."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot export_slots[] = {
    {Py_tp_doc, "A memory file that others map."},
    {Py_tp_dealloc, export_dealloc},
    {Py_tp_methods, export_methods},
    {0, NULL},
};

PyType_Spec export_spec = {
    .name = "samemap._core.Export",
    .basicsize = sizeof(Export),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE |
             Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = export_slots,
};
