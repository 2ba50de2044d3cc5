/* Owns what one mapping of one file is, and whether it can be referenced.
 *
 * Invariant: while `reason` is NONE, `locator` is a path that led to the file
 * `id` at the last check, and the file was as long as the map.
 */
#include "backing.h"

#include "errors.h"
#include "os/descriptor.h"
#include "message.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

const char *
backing_path(const Backing *backing)
{
    return backing->locator != NULL ? PyBytes_AsString(backing->locator) : "";
}

static int
set_locator(Backing *backing, const char *path)
{
    if (backing->locator != NULL &&
        strcmp(PyBytes_AsString(backing->locator), path) == 0) {
        return 0;
    }
    PyObject *locator = PyBytes_FromString(path);
    if (locator == NULL) {
        return -1;
    }
    core_set(&backing->locator, locator);
    return 0;
}

/* `path` leads to the mapped file: by its identity once that is known, by the
 * map table before. */
static bool
leads_to_file(Backing *backing, const MapEntry *entry, const char *path,
              FileStatus *status)
{
    if (fileid_stat(path, status) < 0 || !status->regular) {
        return false;
    }
    if (backing->has_id) {
        return fileid_equal(&status->id, &backing->id);
    }
    return entry != NULL &&
           descriptor_matches(backing->state, entry, path, status);
}

/* Takes `path` as the way to the file, if the file is long enough and may be
 * opened as it is mapped. 0, or -1 with an exception. */
static int
accept(Backing *backing, const char *path, const FileStatus *status)
{
    backing->id = status->id;
    backing->has_id = true;
    int64_t start = (int64_t)backing->file_offset;
    if (backing->rounded && status->size > start) {
        if (status->size - start < backing->length) {
            backing->length = (npy_intp)(status->size - start);
        }
        backing->rounded = false;
    }
    int64_t end;
    if (__builtin_add_overflow(start, backing->length, &end) ||
        status->size < end) {
        errors_set_truncated(backing->state, path, end, status->size);
        return -1;
    }
    bool writable =
        backing_is_writable(backing) && !backing_is_private(backing);
    bool allowed = fileid_access(path, writable) == 0 &&
                   !(writable && descriptor_is_sealed(backing->fd));
    backing->reason = allowed ? REASON_NONE : REASON_FORBIDDEN;
    return set_locator(backing, path);
}

/* 1 and *entry when the map table tells what is mapped at the backing. */
static int
look_up(Backing *backing, MapEntry *entry)
{
    uintptr_t low = (uintptr_t)backing->start;
    return maptable_find(&backing->state->maptable, low,
                         low + (uintptr_t)backing->length, entry);
}

/* Our descriptor still is one on the file: others may close all that a process
 * has (a daemon does), and then the number is somebody else's. */
static bool
has_descriptor(const Backing *backing, FileStatus *status)
{
    return backing->fd >= 0 && fileid_fstat(backing->fd, status) == 0 &&
           fileid_equal(&status->id, &backing->id);
}

/* The path of last time (or the one in a fresh `entry`) no longer leads to the
 * file: follow a rename, else use a descriptor. */
static int
search(Backing *backing, const MapEntry *entry)
{
    FileStatus status;
    MapEntry now;
    char path[64];

    if (leads_to_file(backing, entry, entry->path, &status)) {
        return accept(backing, entry->path, &status);
    }
    if (look_up(backing, &now) == 1 &&
        leads_to_file(backing, &now, now.path, &status)) {
        return accept(backing, now.path, &status);
    }
    if (!has_descriptor(backing, &status)) {
        int fd = descriptor_find(backing->state, entry, &status);
        FileStatus other;
        if (!has_descriptor(backing, &other)) {
            backing->fd = fd;
            if (fd >= 0) {
                backing->id = status.id;
                backing->has_id = true;
            }
        } else if (fd >= 0) { /* another thread was here meanwhile */
            close(fd);
        }
    }
    if (has_descriptor(backing, &status) &&
        descriptor_path(backing->fd, path, sizeof(path))) {
        return accept(backing, path, &status);
    }
    backing->reason = REASON_UNREACHABLE;
    return set_locator(backing, entry->path);
}

int
backing_check(Backing *backing, uint64_t message)
{
    FileStatus status;
    MapEntry entry;

    if (backing->checked == message ||
        (backing->locator == NULL && backing->reason != REASON_NONE)) {
        return 0;
    }
    backing->checked = 0;
    /* Held: while stat has released the GIL, another thread may find another
     * way to the file. */
    PyObject *locator = Py_XNewRef(backing->locator);
    const char *path = locator != NULL ? PyBytes_AsString(locator) : "";
    int result = 0;
    if (leads_to_file(backing, NULL, path, &status)) {
        result = accept(backing, path, &status);
    } else if (look_up(backing, &entry) == 1) {
        result = search(backing, &entry);
    } else {
        backing->reason = REASON_UNREACHABLE;
    }
    Py_XDECREF(locator);
    if (result == 0) {
        backing->checked = message;
    }
    return result;
}

bool
backing_shows(const Backing *backing, const MapEntry *entry)
{
    uint64_t before = (uint64_t)(backing->start - (char *)entry->start);
    return backing->start >= (char *)entry->start &&
           backing->map_inode == entry->inode &&
           backing->map_major == entry->dev_major &&
           backing->map_minor == entry->dev_minor &&
           backing->file_offset == entry->file_offset + before &&
           backing_is_writable(backing) == entry->writable &&
           backing_is_private(backing) == !entry->shared;
}

/* `py_token` is stolen; NULL with an exception is passed on, NULL without one
 * means that there is no file to be named. */
static Backing *
allocate(State *state, char *start, npy_intp length, PyObject *py_token)
{
    Backing *self = NULL;
    if (py_token != NULL || !PyErr_Occurred()) {
        self = (Backing *)PyType_GenericAlloc(state->backing_type, 0);
    }
    if (self == NULL) {
        Py_XDECREF(py_token);
        return NULL;
    }
    self->state = state;
    self->start = start;
    self->length = length;
    self->py_token = py_token;
    self->fd = -1;
    self->pid = (long)getpid();
    return self;
}

static PyObject *
next_token(State *state)
{
    char token[TOKEN_SIZE];
    uint64_t count = ++state->token_count;
    memcpy(token, state->token_prefix, sizeof(state->token_prefix));
    memcpy(token + sizeof(state->token_prefix), &count, sizeof(count));
    return PyBytes_FromStringAndSize(token, TOKEN_SIZE);
}

Backing *
backing_new(State *state, char *start, npy_intp length, const MapEntry *entry,
            bool rounded)
{
    Backing *self = allocate(state, start, length, next_token(state));
    if (self == NULL) {
        return NULL;
    }
    self->rounded = rounded;
    self->file_offset = entry->file_offset + ((uintptr_t)start - entry->start);
    self->access = (entry->writable ? BACKING_WRITABLE : 0) |
                   (entry->shared ? 0 : BACKING_PRIVATE);
    self->map_inode = entry->inode;
    self->map_major = entry->dev_major;
    self->map_minor = entry->dev_minor;
    if (search(self, entry) < 0) {
        Py_CLEAR(self);
    }
    return self;
}

Backing *
backing_new_from_path(State *state, char *start, npy_intp length,
                      const char *path, uint64_t file_offset, unsigned access)
{
    FileStatus status;
    Backing *self = allocate(state, start, length, next_token(state));
    if (self == NULL) {
        return NULL;
    }
    self->file_offset = file_offset;
    self->access = access;
    if (fileid_stat(path, &status) < 0 || !status.regular) {
        self->reason = REASON_UNREACHABLE;
    } else if (accept(self, path, &status) < 0) {
        Py_CLEAR(self);
    }
    return self;
}

Backing *
backing_new_without_file(State *state, char *start, npy_intp length,
                         Reason reason, unsigned access)
{
    Backing *self = allocate(state, start, length, NULL);
    if (self != NULL) {
        self->reason = reason;
        self->access = access;
    }
    return self;
}

Backing *
backing_new_attached(State *state, char *start, npy_intp length,
                     uint64_t file_offset, unsigned access, const FileId *id,
                     PyObject *locator, PyObject *py_token, long pid)
{
    Backing *self = allocate(state, start, length, Py_NewRef(py_token));
    if (self == NULL) {
        return NULL;
    }
    self->file_offset = file_offset;
    self->access = access;
    self->foreign = true;
    self->has_id = true;
    self->id = *id;
    self->locator = Py_NewRef(locator);
    self->pid = pid;
    return self;
}

static int
backing_traverse(Backing *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE((PyObject *)self));
    Py_VISIT(self->owner_ref);
    Py_VISIT((PyObject *)self->sibling);
    Py_VISIT(self->face);
    Py_VISIT(self->dict);
    return 0;
}

static int
backing_clear(Backing *self)
{
    Py_CLEAR(self->owner_ref);
    Py_CLEAR(self->sibling);
    Py_CLEAR(self->face);
    Py_CLEAR(self->dict);
    return 0;
}

static void
backing_dealloc(Backing *self)
{
    PyTypeObject *type = Py_TYPE((PyObject *)self);
    FileStatus status;
    PyObject_GC_UnTrack(self);
    backing_clear(self);
    Py_XDECREF(self->py_owner_key);
    Py_XDECREF(self->py_token);
    Py_XDECREF(self->locator);
    ranges_clear(&self->sent);
    if (has_descriptor(self, &status)) {
        close(self->fd);
    }
    PyObject_GC_Del(self);
    Py_DECREF(type);
}

/* Called once a message, through the pickler's memo. Where no Outgoing tells
 * messages apart, the check of a moment ago may be another message's. */
static PyObject *
backing_reduce(Backing *self, PyObject *Py_UNUSED(ignored))
{
    State *state = self->state;
    uint64_t message = message_number(state);
    if (message_is_implicit(message)) {
        self->checked = 0;
    }
    if (backing_check(self, message) < 0) {
        return NULL;
    }
    if (self->reason != REASON_NONE && !self->foreign) {
        errors_set_open(state, backing_path(self), fileid_format(&self->id),
                        self->reason == REASON_FORBIDDEN ? EACCES : ENOENT);
        return NULL;
    }
    /* Once a message is the right number here too. */
    PyObject *owner =
        self->owner_ref != NULL ? PyObject_CallNoArgs(self->owner_ref) : NULL;
    int held = owner != NULL ? message_hold(state, owner) : 0;
    Py_XDECREF(owner);
    if (held < 0 || PyErr_Occurred()) {
        return NULL;
    }
    PyObject *id = fileid_encode(&self->id);
    if (id == NULL) {
        return NULL;
    }
    return Py_BuildValue("O(OONKnIl)", state->attach, self->py_token,
                         self->locator, id,
                         (unsigned long long)self->file_offset, self->length,
                         self->access, self->pid);
}

static PyMethodDef backing_methods[] = {
    {"__reduce__", (PyCFunction)backing_reduce, METH_NOARGS,
     "How the receiver attaches the same mapping."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot backing_slots[] = {
    {Py_tp_doc, "One mapping of one file, as its sender knows it."},
    {Py_tp_dealloc, backing_dealloc},
    {Py_tp_traverse, backing_traverse},
    {Py_tp_clear, backing_clear},
    {Py_tp_methods, backing_methods},
    {0, NULL},
};

PyType_Spec backing_spec = {
    .name = "samemap._core.Backing",
    .basicsize = sizeof(Backing),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC |
             Py_TPFLAGS_IMMUTABLETYPE | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = backing_slots,
};
