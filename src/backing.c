/* Owns the type Backing, whose parts other files write, and its mapping. */
#include "backing.h"

#include "errors.h"
#include "registry.h"
#include "sender/modified.h"
#include "sender/outgoing.h"
#include "wire/reference.h"

#include <errno.h>

static Backing *
allocate(State *state, const Mapping *mapping)
{
    Backing *self = (Backing *)PyType_GenericAlloc(state->backing_type, 0);
    if (self != NULL) {
        self->state = state;
        self->mapping = *mapping;
    }
    return self;
}

/* Takes over the length that the file fills, and names the backing: `self`, or
 * NULL when the length is an error or an error happens; then it is released. */
static Backing *
finish(Backing *self, intptr_t length)
{
    if (length < 0 || registry_name(self->state, self) < 0) {
        Py_DECREF((PyObject *)self);
        return NULL;
    }
    self->mapping.length = length;
    return self;
}

Backing *
backing_new(State *state, char *start, intptr_t length, const MapEntry *entry,
            bool rounded)
{
    Mapping mapping = {
        .start = start,
        .length = length,
        .file_offset = entry->file_offset + ((uintptr_t)start - entry->start),
        .access = (entry->writable ? MAPPING_WRITABLE : 0) |
                  (entry->shared ? 0 : MAPPING_PRIVATE),
    };
    Backing *self = allocate(state, &mapping);
    if (self == NULL) {
        return NULL;
    }
    return finish(self, reach_from_entry(state, &self->reach, &self->mapping,
                                         entry, rounded));
}

Backing *
backing_new_from_path(State *state, const Mapping *mapping, const char *path)
{
    Backing *self = allocate(state, mapping);
    if (self == NULL) {
        return NULL;
    }
    return finish(self,
                  reach_from_path(state, &self->reach, &self->mapping, path));
}

Backing *
backing_new_without_file(State *state, char *start, intptr_t length,
                         Reason reason, unsigned access)
{
    Mapping mapping = {.start = start, .length = length, .access = access};
    Backing *self = allocate(state, &mapping);
    if (self != NULL) {
        reach_from_nothing(&self->reach, reason);
    }
    return self;
}

Backing *
backing_new_attached(State *state, const Mapping *mapping, const FileId *id,
                     PyObject *path, PyObject *py_token, long pid)
{
    Backing *self = allocate(state, mapping);
    if (self == NULL) {
        return NULL;
    }
    reach_from_message(&self->reach, id, path, pid);
    if (py_token == NULL) {
        return finish(self, mapping->length);
    }
    registry_name_as(self, py_token);
    return self;
}

void
backing_set_requested(Backing *self)
{
    self->mapping.access = MAPPING_WRITABLE | MAPPING_REQUESTED;
}

int
backing_check(Backing *self, uint64_t message)
{
    if (!reach_is_due(&self->reach, message)) {
        return 0;
    }
    intptr_t length =
        reach_check(self->state, &self->reach, &self->mapping, message);
    if (length < 0) {
        return -1;
    }
    self->mapping.length = length;
    return 0;
}

int
backing_is_memory_of(const Backing *self, PyObject *map)
{
    Py_buffer buffer;
    if (PyObject_GetBuffer(map, &buffer, PyBUF_SIMPLE) < 0) {
        return -1;
    }
    bool same =
        buffer.buf == self->mapping.start && buffer.len == self->mapping.length;
    PyBuffer_Release(&buffer);
    return same;
}

static int
backing_traverse(Backing *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE((PyObject *)self));
    Py_VISIT(self->place.owner_ref);
    Py_VISIT((PyObject *)self->place.sibling);
    Py_VISIT(self->header.tuple);
    Py_VISIT(self->header.dict);
    Py_VISIT(self->header.root);
    return 0;
}

static int
backing_clear(Backing *self)
{
    registry_clear_place(&self->place);
    memmap_clear(&self->header);
    return 0;
}

static void
backing_dealloc(Backing *self)
{
    PyTypeObject *type = Py_TYPE((PyObject *)self);
    PyObject_GC_UnTrack(self);
    backing_clear(self);
    registry_free_place(&self->place);
    reach_clear(&self->reach);
    modified_clear(self);
    PyObject_GC_Del(self);
    Py_DECREF(type);
}

/* Called once a message, through the pickler's memo. Where no Outgoing tells
 * messages apart, the check of a moment ago may be another message's. */
static PyObject *
backing_reduce(Backing *self, PyObject *Py_UNUSED(ignored))
{
    State *state = self->state;
    const Reach *reach = &self->reach;
    const Place *place = &self->place;
    uint64_t message = outgoing_number(outgoing_current(state));
    if (message_is_implicit(message)) {
        reach_expire(&self->reach);
    }
    if (backing_check(self, message) < 0) {
        return NULL;
    }
    if (reach->reason != REASON_NONE) {
        errors_set_open(state, reach_path(reach), &reach->id,
                        reach->reason == REASON_FORBIDDEN ? EACCES : ENOENT);
        return NULL;
    }
    /* Once a message is the right number here too. */
    PyObject *owner =
        place->owner_ref != NULL ? PyObject_CallNoArgs(place->owner_ref) : NULL;
    int held = owner != NULL ? outgoing_hold(state, owner) : 0;
    Py_XDECREF(owner);
    if (held < 0 || PyErr_Occurred()) {
        return NULL;
    }
    assert(reach->path != NULL && reach->has_id && place->py_token != NULL);
    Reference reference = {
        .py_token = place->py_token,
        .py_path = reach->path,
        .id = reach->id,
        .file_offset = self->mapping.file_offset,
        .length = self->mapping.length,
        .access = self->mapping.access,
        .pid = reach->pid,
    };
    return reference_encode(state, &reference);
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
