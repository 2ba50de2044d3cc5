/* Owns the memory files of results from their making to their closing.
 *
 * All that the list in the state has is open; it is read and changed under the
 * GIL. A message is read after all that this process has written before it: so
 * a receipt tells that the older messages have been read as well.
 */
#include "sender/export.h"

#include "mapping.h"
#include "os/clock.h"
#include "os/descriptor.h"
#include "os/memfile.h"
#include "registry.h"
#include "wire/identity.h"
#include "wire/reference.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* Milliseconds for which the room that was found is counted down instead of
 * looked up again. */
#define ROOM_AGE 50

#define PATH_SIZE 64

typedef struct {
    PyObject_HEAD
    State *state;
    int fd; /* the list's; closed when the message isn't sent */
    FileId id;
    npy_intp length;
} Export;

static int
list_add(State *state, int fd, const FileId *id, uint64_t message)
{
    if (state->export_count == state->export_slots) {
        size_t slots = 2 * state->export_slots + 8;
        ExportFile *files =
            PyMem_Realloc(state->exports, slots * sizeof(*files));
        if (files == NULL) {
            PyErr_NoMemory();
            return -1;
        }
        state->exports = files;
        state->export_slots = slots;
    }
    state->exports[state->export_count++] = (ExportFile){fd, *id, message};
    return 0;
}

/* Closes a descriptor, if it is the file's: others may close all that a process
 * has, and then the number is somebody else's. */
static void
close_file(const ExportFile *file)
{
    FileStatus status;
    if (fileid_fstat(file->fd, &status) == 0 &&
        fileid_equal(&status.id, &file->id)) {
        close(file->fd);
    }
}

typedef bool Chosen(const ExportFile *file, uint64_t message);

/* Closes the files that are chosen. Freeing their pages may take a while. */
static void
close_chosen(State *state, Chosen *chosen, uint64_t message)
{
    size_t kept = 0, count = 0;
    ExportFile *files = state->exports, gone[32];
    for (size_t i = 0; i < state->export_count; i++) {
        if (count < sizeof(gone) / sizeof(*gone) &&
            chosen(&files[i], message)) {
            gone[count++] = files[i];
        } else {
            files[kept++] = files[i];
        }
    }
    state->export_count = kept;
    if (count == 0) {
        return;
    }
    Py_BEGIN_ALLOW_THREADS
    for (size_t i = 0; i < count; i++) {
        close_file(&gone[i]);
    }
    Py_END_ALLOW_THREADS
    close_chosen(state, chosen, message); /* what found no place */
}

static bool
is_of_message(const ExportFile *file, uint64_t message)
{
    return file->message == message;
}

static bool
is_read(const ExportFile *file, uint64_t message)
{
    return file->message <= message;
}

static bool
is_acknowledged(const ExportFile *file)
{
    return memfile_is_sealed(file->fd);
}

/* There is room for `size` more bytes. */
static bool
has_room(State *state, const MemFile *file)
{
    uint64_t now = clock_milliseconds();
    if (now - state->export_room_time > ROOM_AGE ||
        state->export_room < 4 * file->size) {
        int64_t room;
        Py_BEGIN_ALLOW_THREADS
        room = memfile_room(file);
        Py_END_ALLOW_THREADS
        state->export_room = room;
        state->export_room_time = now;
    }
    if (state->export_room < file->size) {
        return false;
    }
    state->export_room -= file->size;
    return true;
}

static Reason
reason_of(int error)
{
    return error == EFBIG || error == ENOSPC || error == ENOMEM
               ? REASON_NO_ROOM
               : REASON_NO_MEMFILE;
}

/* Fills a file that is in the list: REASON_NONE, or why not. */
static Reason
fill(State *state, const MemFile *file, const char *data, npy_intp offset,
     npy_intp length)
{
    int result, error;
    if (!has_room(state, file)) {
        return REASON_NO_ROOM;
    }
    Py_BEGIN_ALLOW_THREADS
    result =
        memfile_fill(file, &state->large_pages, offset, data, (size_t)length);
    result = result == 0 ? memfile_seal(file, false) : result;
    error = errno;
    Py_END_ALLOW_THREADS
    return result == 0 ? REASON_NONE : reason_of(error);
}

/* The caller can open the file and put a seal on it; its identity. */
static bool
is_reachable(const MemFile *file, FileStatus *status)
{
    char path[PATH_SIZE];
    return file->sealable && fileid_fstat(file->fd, status) == 0 &&
           descriptor_path(file->fd, path, sizeof(path));
}

/* Closes the file of the list that has the descriptor `fd`. */
static void
drop(State *state, int fd)
{
    for (size_t i = 0; i < state->export_count; i++) {
        if (state->exports[i].fd == fd) {
            ExportFile file = state->exports[i];
            state->exports[i] = state->exports[--state->export_count];
            close_file(&file);
            return;
        }
    }
}

PyObject *
export_new(State *state, uint64_t message, const char *data, npy_intp offset,
           npy_intp length, Reason *reason)
{
    MemFile file;
    FileStatus status;
    /* With the GIL until the list has it: a child that another thread forks
     * closes what is in the list. */
    if (memfile_create(&file, NULL, (int64_t)offset + length) < 0) {
        *reason = reason_of(errno);
        return NULL;
    }
    if (!is_reachable(&file, &status)) {
        *reason = REASON_NO_MEMFILE;
        memfile_close(&file);
        return NULL;
    }
    if (list_add(state, file.fd, &status.id, message) < 0) {
        memfile_close(&file);
        return NULL;
    }
    *reason = fill(state, &file, data, offset, length);
    Export *self = NULL;
    if (*reason == REASON_NONE) {
        self = (Export *)PyType_GenericAlloc(state->export_type, 0);
    }
    if (self == NULL) {
        drop(state, file.fd);
        return NULL;
    }
    self->state = state;
    self->fd = file.fd;
    self->id = status.id;
    self->length = offset + length;
    return (PyObject *)self;
}

static bool
compare(int fd, int64_t offset, const char *data, size_t length)
{
    char buffer[1 << 14];
    while (length > 0) {
        size_t part = length < sizeof(buffer) ? length : sizeof(buffer);
        ssize_t n = pread(fd, buffer, part, (off_t)offset);
        if (n <= 0 || memcmp(buffer, data, (size_t)n) != 0) {
            return false;
        }
        data += n;
        offset += n;
        length -= (size_t)n;
    }
    return true;
}

bool
export_holds(PyObject *export, npy_intp offset, const char *data,
             npy_intp length)
{
    bool result;
    int fd = ((Export *)export)->fd;
    Py_BEGIN_ALLOW_THREADS
    result = compare(fd, offset, data, (size_t)length);
    Py_END_ALLOW_THREADS
    return result;
}

PyObject *
export_receipts(State *state, uint64_t message)
{
    PyObject *list = PyList_New(0), *result = NULL;
    if (list == NULL) {
        return NULL;
    }
    for (size_t i = 0; i < state->export_count; i++) {
        const ExportFile file = state->exports[i];
        if (file.message != message) {
            continue;
        }
        PyObject *receipt = Py_BuildValue("liN", (long)getpid(), file.fd,
                                          identity_encode(&file.id));
        int added = receipt != NULL ? PyList_Append(list, receipt) : -1;
        Py_XDECREF(receipt);
        if (added < 0) {
            goto done;
        }
    }
    result = PyList_AsTuple(list);
done:
    Py_DECREF(list);
    return result;
}

void
export_discard(State *state, uint64_t message)
{
    close_chosen(state, is_of_message, message);
}

/* 0, or errno. */
static int
acknowledge(const char *path, const FileId *id)
{
    FileStatus status;
    int error = 0, fd = fileid_open(path, true, &status);
    if (fd < 0) {
        return errno;
    }
    if (fileid_equal(&status.id, id)) {
        MemFile file = {fd, status.size, true, true};
        error = memfile_seal(&file, true) < 0 ? errno : 0;
    }
    close(fd);
    return error;
}

PyObject *
export_acknowledge(PyObject *Py_UNUSED(module), PyObject *args)
{
    long pid;
    int fd, error;
    PyObject *identity;
    FileId id;
    char path[PATH_SIZE];
    if (!PyArg_ParseTuple(args, "liO:acknowledge", &pid, &fd, &identity) ||
        identity_decode(identity, &id) < 0) {
        return NULL;
    }
    snprintf(path, sizeof(path), "/proc/%ld/fd/%d", pid, fd);
    Py_BEGIN_ALLOW_THREADS
    error = acknowledge(path, &id);
    Py_END_ALLOW_THREADS
    return PyBool_FromLong(error != EMFILE && error != ENFILE &&
                           error != ENOMEM);
}

PyObject *
export_close(PyObject *module, PyObject *Py_UNUSED(ignored))
{
    State *state = PyModule_GetState(module);
    uint64_t newest = 0;
    for (size_t i = 0; i < state->export_count; i++) {
        const ExportFile *file = &state->exports[i];
        /* Each file of a message has its own receipt, all at once given. */
        if (file->message > newest && is_acknowledged(file)) {
            newest = file->message;
        }
    }
    if (newest > 0) {
        close_chosen(state, is_read, newest);
    }
    return PyLong_FromSize_t(state->export_count);
}

void
export_after_fork(State *state)
{
    export_clear(state);
}

void
export_clear(State *state)
{
    for (size_t i = 0; i < state->export_count; i++) {
        close_file(&state->exports[i]);
    }
    PyMem_Free(state->exports);
    state->exports = NULL;
    state->export_count = state->export_slots = 0;
}

static PyObject *
export_reduce(Export *self, PyObject *Py_UNUSED(ignored))
{
    char path[PATH_SIZE];
    PyObject *result = NULL;
    snprintf(path, sizeof(path), "/proc/%ld/fd/%d", (long)getpid(), self->fd);
    Reference reference = {
        .py_token = registry_new_token(self->state),
        .py_path = PyBytes_FromString(path),
        .id = self->id,
        .length = self->length,
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
    PyObject_Free(self);
    Py_DECREF(type);
}

static PyMethodDef export_methods[] = {
    {"__reduce__", (PyCFunction)export_reduce, METH_NOARGS,
     "How the caller attaches the memory."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot export_slots[] = {
    {Py_tp_doc, "A memory file of results, while their message is written."},
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
