/* Owns the list of images, and the choice which one serves an array.
 *
 * The list is for the messages to come: what an image has made stays with the
 * messages that name it, and closes with the last of them.
 */
#include "sender/images.h"

#include "sender/image.h"
#include "sender/owner.h"
#include "sender/siblings.h"

#include <string.h>

/* So much is left to the processes themselves where a file can be on a disk: a
 * control group ends who takes the last page, and workers are yet to start. */
#define HEADROOM ((npy_intp)64 << 20)

/* What is asked for. */
typedef struct {
    Outgoing *message;
    const Plan *plan;
    Owner owner;
    char *low, *high; /* the owner's memory; equal: unknown */
    Compact compact;
} Request;

/* Takes the image out of the list, if it is there. */
static void
forget(Image *self)
{
    State *state = self->state;
    for (size_t i = 0; i < state->image_count; i++) {
        if (state->images[i] == (PyObject *)self) {
            state->images[i] = state->images[--state->image_count];
            Py_CLEAR(self->owner_ref);
            if (!self->is_busy) {
                image_unwatch(self);
            }
            Py_DECREF((PyObject *)self);
            return;
        }
    }
}

static PyObject *
forget_dead(PyObject *self, PyObject *Py_UNUSED(reference))
{
    /* The callback, which dies with the weak reference, has borrowed it. */
    Image *image = PyCapsule_GetPointer(self, NULL);
    if (image != NULL) {
        forget(image);
    }
    Py_RETURN_NONE;
}

static PyMethodDef forget_method = {"forget", forget_dead, METH_O, NULL};

/* Lists the image until its owner dies: 0, or -1 with an exception. */
static int
list(Image *self, PyObject *owner)
{
    State *state = self->state;
    PyObject **larger = core_grow(state->images, state->image_count,
                                  &state->image_room, sizeof(*larger));
    if (larger == NULL) {
        return -1;
    }
    state->images = larger;
    PyObject *capsule = PyCapsule_New(self, NULL, NULL);
    PyObject *callback =
        capsule != NULL ? PyCFunction_New(&forget_method, capsule) : NULL;
    Py_XDECREF(capsule);
    if (callback == NULL) {
        return -1;
    }
    self->owner_ref = PyWeakref_NewRef(owner, callback);
    Py_DECREF(callback);
    if (self->owner_ref == NULL) {
        return -1;
    }
    self->owner = owner;
    state->images[state->image_count++] = Py_NewRef((PyObject *)self);
    return 0;
}

/* All of the owner's memory or, where that isn't known, what the view spans. */
static void
find_memory(Request *request)
{
    char *low, *high;
    const Plan *plan = request->plan;
    request->low = request->high = NULL;
    if (owner_get_memory(&request->owner, &low, &high) && low <= plan->low &&
        high >= plan->high) {
        request->low = low;
        request->high = high;
    } else if (plan->high - plan->low <= request->compact.nbytes) {
        request->low = plan->low;
        request->high = plan->high;
    }
}

static bool
is_of_memory(const Image *self, const Request *request)
{
    return !self->is_compact && self->owner == request->owner.last_array &&
           self->low == request->low && self->high == request->high;
}

static bool
is_of_elements(const Image *self, const Request *request)
{
    const Layout *mine = &self->compact.source;
    const Layout *asked = &request->compact.source;
    return self->is_compact && self->owner == request->owner.last_array &&
           self->low == request->plan->low &&
           self->high == request->plan->high && mine->ndim == asked->ndim &&
           self->compact.nbytes == request->compact.nbytes &&
           memcmp(mine->shape, asked->shape,
                  (size_t)asked->ndim * sizeof(npy_intp)) == 0 &&
           memcmp(mine->strides, asked->strides,
                  (size_t)asked->ndim * sizeof(npy_intp)) == 0;
}

/* The elements go alone where what lies between them would be much, and as long
 * as the memory's owner has few such images. */
static bool
wants_compact(const State *state, const Request *request)
{
    const Plan *plan = request->plan;
    npy_intp used = request->compact.nbytes, span = plan->high - plan->low;
    npy_intp sum = used;
    if (request->low == request->high) {
        return true;
    }
    if (compact_is_dense(used, span) ||
        siblings_cover(request->message, request->owner.last_array, plan->low,
                       plan->high)) {
        return false;
    }
    for (size_t i = 0; i < state->image_count; i++) {
        const Image *image = (const Image *)state->images[i];
        if (is_of_memory(image, request) && image_has_all(image, plan)) {
            return false;
        }
        if (image->owner == request->owner.last_array && image->is_compact &&
            !is_of_elements(image, request)) {
            sum += image->compact.nbytes;
        }
    }
    return sum <= (request->high - request->low) / 2;
}

/* Borrowed, or NULL. */
static Image *
find(const State *state, const Request *request, bool compact)
{
    for (size_t i = 0; i < state->image_count; i++) {
        Image *image = (Image *)state->images[i];
        if (compact ? is_of_elements(image, request)
                    : is_of_memory(image, request)) {
            return image;
        }
    }
    return NULL;
}

/* New reference: an image that has the view's elements. NULL with an exception,
 * or *reason. */
static Image *
add(State *state, const Request *request, bool compact, PyObject *folder,
    bool listed, Reason *reason)
{
    const Plan *plan = request->plan;
    Image *self = image_new(state, folder, compact ? plan->low : request->low,
                            compact ? plan->high : request->high,
                            compact ? &request->compact : NULL, reason);
    if (self != NULL && listed && list(self, request->owner.last_array) < 0) {
        Py_CLEAR(self);
    }
    if (self != NULL) {
        *reason = image_fill(self, request->message, plan);
    }
    return self;
}

/* The same, in memory or, where that has too little room, on a disk. */
static Image *
make(State *state, const Request *request, bool compact, bool listed,
     Reason *reason)
{
    PyObject *spill = request->message->spill_folder;
    /* Of the whole: what other views need can't go elsewhere later. */
    npy_intp size =
        compact ? request->compact.nbytes : request->high - request->low;
    bool fits = spill == NULL || (size <= NPY_MAX_INTP - HEADROOM &&
                                  export_has_memory(state, size + HEADROOM));
    Image *self = NULL;
    *reason = REASON_NO_ROOM;
    if (fits) {
        self = add(state, request, compact, request->message->export_folder,
                   listed, reason);
    }
    if (*reason == REASON_NO_ROOM && spill != NULL && !PyErr_Occurred()) {
        if (self != NULL) {
            forget(self);
            Py_CLEAR(self);
        }
        self = add(state, request, compact, spill, listed, reason);
    }
    return self;
}

/* New reference: an image that has the elements as they are now. NULL with an
 * exception, or *reason. */
static Image *
get(State *state, const Request *request, Reason *reason)
{
    const Plan *plan = request->plan;
    const Outgoing *message = request->message;
    bool compact = wants_compact(state, request), changes = false;
    Image *known = find(state, request, compact);
    /* One that is busy would be waited for, maybe by who works on it. */
    const bool listed = known == NULL || !known->is_busy;
    Image *self = listed ? (Image *)Py_XNewRef((PyObject *)known) : NULL;
    if (self != NULL) {
        int same = image_prove(self, message, plan);
        if (same != 1) {
            changes = true;
            forget(self);
            Py_CLEAR(self);
        }
        if (same < 0) {
            return NULL;
        }
    }
    if (self != NULL) {
        *reason = image_fill(self, message, plan);
    } else {
        self = make(state, request, compact, listed, reason);
        if (self == NULL) {
            return NULL;
        }
        self->changes = changes;
    }
    if (self->owner_ref == NULL) {
        image_unwatch(self); /* forgotten meanwhile */
    }
    if (*reason != REASON_NONE) {
        Py_CLEAR(self);
    }
    return self;
}

/* Finds the owner: 0, or -1 with an exception. */
static int
make_request(Outgoing *message, PyArrayObject *array, const Plan *plan,
             Request *request)
{
    request->message = message;
    request->plan = plan;
    compact_make(plan, &request->compact);
    if (owner_find(message->state, array, &request->owner) < 0) {
        return -1;
    }
    find_memory(request);
    return 0;
}

/* New reference: the plan's layout is that of the view on the image. */
static PyObject *
use(Image *self, const Request *request, Plan *plan)
{
    const void *last = request->owner.last_array;
    image_use(self, plan);
    if (siblings_are_apart(request->message, last)) {
        /* As a dump is. */
        plan->layout.flags &= ~(unsigned)LAYOUT_WRITEABLE;
        plan->layout.flags |= LAYOUT_LOCKED;
    }
    if (request->owner.locked ||
        !PyArray_ISWRITEABLE((PyArrayObject *)request->owner.last_array)) {
        plan->layout.flags |= LAYOUT_LOCKED;
    }
    PyObject *export = Py_NewRef((PyObject *)self->export);
    if (outgoing_hold(self->state, export) < 0) {
        Py_CLEAR(export);
    }
    return export;
}

PyObject *
images_find(Outgoing *message, PyArrayObject *array, Plan *plan, Reason *reason)
{
    Request request;
    Py_buffer buffer = {.obj = NULL};
    if (make_request(message, array, plan, &request) < 0) {
        return NULL;
    }
    /* While it is held nobody can close or resize the memory. */
    PyObject *owner = request.owner.object;
    if (owner != NULL && !PyArray_Check(owner) && PyObject_CheckBuffer(owner) &&
        PyObject_GetBuffer(owner, &buffer, PyBUF_SIMPLE) < 0) {
        PyErr_Clear();
    }
    Image *image = get(message->state, &request, reason);
    PyObject *export = image != NULL ? use(image, &request, plan) : NULL;
    Py_XDECREF((PyObject *)image);
    if (buffer.obj != NULL) {
        PyBuffer_Release(&buffer);
    }
    return export;
}

PyObject *
images_join(Outgoing *message, PyArrayObject *array, Plan *plan, Reason *reason)
{
    Request request;
    State *state = message->state;
    if (state->image_count == 0 && message->owners.count == 0) {
        return NULL;
    }
    if (make_request(message, array, plan, &request) < 0) {
        return NULL;
    }
    const void *last = request.owner.last_array;
    if (siblings_are_apart(message, last)) {
        return NULL;
    }
    if (siblings_cover(message, last, plan->low, plan->high)) {
        /* It will be asked for as part of another one. */
        return images_find(message, array, plan, reason);
    }
    Image *image = find(state, &request, false);
    if (image == NULL || image->is_busy ||
        !image_is_proven(image, message, plan)) {
        return NULL;
    }
    return use(image, &request, plan);
}

PyObject *
images_forget(PyObject *module, PyObject *Py_UNUSED(ignored))
{
    State *state = PyModule_GetState(module);
    while (state->image_count > 0) {
        forget((Image *)state->images[state->image_count - 1]);
    }
    Py_RETURN_NONE;
}

void
images_clear(State *state)
{
    while (state->image_count > 0) {
        forget((Image *)state->images[state->image_count - 1]);
    }
    PyMem_Free(state->images);
    state->images = NULL;
    state->image_room = 0;
    writes_close(&state->watch);
}

void
images_after_fork(State *state)
{
    /* First: what the parent watches stays watched. */
    writes_close(&state->watch);
    state->is_arming = false;
    images_clear(state);
}
