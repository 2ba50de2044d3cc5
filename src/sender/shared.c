/* Owns the making of memory that is meant to be shared: a memory file, mapped
 * by an mmap.mmap as any other file, and known from the start as what it is.
 *
 * The file lives in the map alone (and in those of other processes), by the
 * descriptor that mmap.mmap keeps: nothing has a name that could be left.
 */
#include "sender/shared.h"

#include "os/memfile.h"
#include "sender/resolve.h"

#include <errno.h>

/* What is stored where no page can be had is SIGBUS, so there must be room. 0
 * or errno. */
static int
reserve_room(const MemFile *file, int64_t *room)
{
    *room = memfile_room(file);
    if (*room < file->size) {
        return ENOSPC;
    }
    return memfile_secure(file) < 0 ? errno : 0;
}

/* Its pages are made at once: 4 KB ones, which are made one by one when
 * somebody writes there first, take seven times as long. But what is large
 * against the memory that is left may be meant to stay empty for the most part.
 */
#define SHARE_OF_ROOM 8

/* A new file with `data`: 0 or errno, and *room if that is too little. */
static int
make_file(MemFile *file, int64_t size, const Py_buffer *data, int64_t *room)
{
    LargePages pages = {false, 0, 0};
    *room = size;
    if (memfile_create(file, NULL, size) < 0) {
        return errno;
    }
    int error = reserve_room(file, room);
    if (error != 0) {
        goto done;
    }
    if (data->len > 0) {
        if (memfile_fill(file, &pages, 0, data->buf, (size_t)data->len) < 0) {
            error = errno;
            goto done;
        }
    } else if (size <= *room / SHARE_OF_ROOM) {
        memfile_populate(file, &pages);
    }
    error = memfile_seal(file, true) < 0 ? errno : 0;
done:
    if (error != 0) {
        memfile_close(file);
    }
    return error;
}

static PyObject *
map_file(State *state, const MemFile *file)
{
    MemfileHole hole;
    memfile_reserve(&hole, (size_t)file->size);
    PyObject *map = PyObject_CallFunction((PyObject *)state->mmap_type, "iL",
                                          file->fd, (long long)file->size);
    memfile_release(&hole);
    if (map != NULL && resolve_request(state, map) < 0) {
        Py_CLEAR(map);
    }
    return map;
}

static void
set_error(int error, int64_t size, int64_t room)
{
    if (error == ENOSPC || error == ENOMEM || error == EFBIG) {
        PyErr_Format(PyExc_MemoryError,
                     "no room for %lld bytes of shared memory: %lld are left",
                     (long long)size, (long long)(room < size ? room : 0));
        return;
    }
    errno = error;
    PyErr_SetFromErrno(PyExc_OSError);
}

PyObject *
shared_memory(PyObject *module, PyObject *args)
{
    State *state = PyModule_GetState(module);
    Py_buffer data = {.buf = NULL, .len = 0};
    PyObject *py_data = NULL, *map = NULL;
    MemFile file;
    Py_ssize_t nbytes;
    int64_t room;
    int error;
    if (!PyArg_ParseTuple(args, "n|O:shared_memory", &nbytes, &py_data) ||
        (py_data != NULL &&
         PyObject_GetBuffer(py_data, &data, PyBUF_SIMPLE) < 0)) {
        return NULL;
    }
    if (nbytes < 0 || data.len > nbytes) {
        PyErr_SetString(PyExc_ValueError, "the data exceed the memory");
        goto done;
    }
    /* There are no maps of nothing. */
    nbytes = nbytes > 0 ? nbytes : 1;
    Py_BEGIN_ALLOW_THREADS
    error = make_file(&file, nbytes, &data, &room);
    Py_END_ALLOW_THREADS
    if (error != 0) {
        set_error(error, nbytes, room);
        goto done;
    }
    map = map_file(state, &file);
    memfile_close(&file);
done:
    PyBuffer_Release(&data);
    return map;
}
