/* Owns the images of ordinary memory: which there are, what they have, and the
 * proof that this is what the memory has now.
 *
 * The proof costs what it must: where the memory is sent a second time it is
 * compared, and watched from then on if the system can (os/writes); what was
 * seen to change is compared each time.
 */
#include "sender/image.h"

#include "os/page.h"
#include "ranges.h"
#include "sender/compact.h"
#include "sender/export.h"
#include "sender/owner.h"

#include <string.h>

/* Bytes that are compared first: they tell of most changes. */
#define SAMPLE (1 << 16)

typedef struct {
    PyObject_HEAD
    State *state;
    PyObject *owner_ref; /* weak, of the last array of the chain of bases; NULL
                          * when the image isn't listed any more */
    const void *owner;   /* that array, only to be compared */
    Export *export;      /* owned */
    char *low, *high;    /* the memory */
    /* Of a view alone, or all of the memory at its offsets. */
    bool is_compact;
    Compact compact;
    char *data;      /* of that view */
    Ranges filled;   /* addresses whose bytes the file has */
    Ranges compared; /* of these, what was the same after `watched` began */
    uintptr_t watched_low, watched_high; /* equal: not watched */
    bool changes; /* somebody writes there: watching would not pay */
    bool is_busy; /* some thread works on it without the GIL */
    uint64_t message; /* the last one, and what was proven for that */
    Ranges proven;
} Image;

/* What is asked for. */
typedef struct {
    Outgoing *message;
    const Plan *plan;
    Owner owner;
    char *low, *high; /* the owner's memory; equal: unknown */
    Compact compact;
} Request;

static void
unwatch(Image *self)
{
    if (self->watched_low < self->watched_high) {
        writes_disarm(&self->state->watch, self->watched_low,
                      self->watched_high);
    }
    self->watched_low = self->watched_high = 0;
    ranges_clear(&self->compared);
}

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
                unwatch(self);
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
    if (state->image_count == state->image_room) {
        size_t room = 2 * state->image_room + 8;
        PyObject **larger =
            PyMem_Realloc(state->images, room * sizeof(*larger));
        if (larger == NULL) {
            PyErr_NoMemory();
            return -1;
        }
        state->images = larger;
        state->image_room = room;
    }
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

/* ---- The bytes ----------------------------------------------------------- */

static npy_intp
offset_of(const Image *self, const char *address)
{
    return export_remainder(self->low) + (address - self->low);
}

/* The file has what the memory has at [low, high): 1, 0, or -1. */
static int
compare_elements(const Image *self, const Plan *plan)
{
    PyObject *bytes = compact_gather(&self->compact, plan);
    if (bytes == NULL) {
        return -1;
    }
    int same = export_holds(self->export, 0, PyBytes_AsString(bytes),
                            self->compact.nbytes);
    Py_DECREF(bytes);
    return same;
}

/* The same for what it has of [low, high), but for what was compared before and
 * has been watched since. */
static int
compare_memory(Image *self, char *low, char *high)
{
    Range hole, gap;
    for (char *at = low; at < high; at = hole.high) {
        /* Up to the next byte that the file hasn't. */
        if (!ranges_find_gap(&self->filled, at, high, &hole)) {
            hole = (Range){high, high};
        }
        for (char *from = at;
             ranges_find_gap(&self->compared, from, hole.low, &gap);
             from = gap.high) {
            if (!export_holds(self->export, offset_of(self, gap.low), gap.low,
                              gap.high - gap.low)) {
                return 0;
            }
        }
    }
    return 1;
}

/* Begins to watch [low, high): false if that can't be. */
static bool
watch(Image *self, uintptr_t low, uintptr_t high)
{
    int result;
    WriteWatch *watch = &self->state->watch;
    Py_BEGIN_ALLOW_THREADS
    result = writes_arm(watch, low, high);
    Py_END_ALLOW_THREADS
    if (result < 0) {
        self->changes = true; /* or so it must be taken */
        return false;
    }
    self->watched_low = low;
    self->watched_high = high;
    return true;
}

/* Nobody has written to what is watched. */
static bool
is_unwritten(Image *self)
{
    if (self->watched_low == self->watched_high) {
        return false;
    }
    if (writes_since(&self->state->watch, self->watched_low,
                     self->watched_high) == WRITES_NONE) {
        return true;
    }
    self->changes = true;
    unwatch(self);
    return false;
}

/* The elements of a view: 1, 0, or -1. What lies between them counts as well,
 * and the rest of the pages. */
static int
prove_elements(Image *self, const Plan *plan)
{
    const uintptr_t page = page_size();
    uintptr_t low = (uintptr_t)plan->low / page * page;
    uintptr_t high = ((uintptr_t)plan->high + page - 1) / page * page;
    if (is_unwritten(self)) {
        return 1;
    }
    if (!self->changes) {
        watch(self, low, high);
    }
    return compare_elements(self, plan);
}

/* What is the same now stays so as long as nobody is seen to write: 0 or -1. */
static int
remember(Image *self, char *low, char *high)
{
    Range hole;
    char *first = (char *)self->watched_low, *end = (char *)self->watched_high;
    low = low < first ? first : low;
    high = high > end ? end : high;
    for (char *at = low; at < high; at = hole.high) {
        if (!ranges_find_gap(&self->filled, at, high, &hole)) {
            hole = (Range){high, high};
        }
        if (ranges_add(&self->compared, at, hole.low) < 0) {
            return -1;
        }
    }
    return 0;
}

/* What the file has of the memory that the view spans: 1, 0, or -1. */
static int
prove_memory(Image *self, const Plan *plan)
{
    uintptr_t low, high;
    if (!is_unwritten(self) && !self->changes && self->filled.count > 0) {
        const Range *last = &self->filled.items[self->filled.count - 1];
        char *start = self->filled.items[0].low;
        char *end = plan->high - plan->low > SAMPLE ? plan->low + SAMPLE
                                                    : plan->high;
        if (!compare_memory(self, plan->low, end)) {
            return 0;
        }
        if (writes_pages(start, (size_t)(last->high - start), &low, &high)) {
            watch(self, low, high);
        }
    }
    if (!compare_memory(self, plan->low, plan->high)) {
        return 0;
    }
    return remember(self, plan->low, plan->high) < 0 ? -1 : 1;
}

static int
prove(Image *self, const Request *request)
{
    const Plan *plan = request->plan;
    uint64_t message = request->message->first_number;
    Range gap;
    if (self->message != message) {
        ranges_clear(&self->proven);
        self->message = message;
    }
    if (!ranges_find_gap(&self->proven, plan->low, plan->high, &gap) ||
        PyBytes_CheckExact(request->owner.object)) {
        return 1;
    }
    return self->is_compact ? prove_elements(self, plan)
                            : prove_memory(self, plan);
}

/* Writes what the file has not of the elements: REASON_NONE, or why not;
 * REASON_COUNT with an exception. */
static Reason
fill(Image *self, const Plan *plan)
{
    Range gap;
    Reason reason = REASON_NONE;
    if (self->is_compact && self->filled.count == 0) {
        PyObject *bytes = compact_gather(&self->compact, plan);
        if (bytes == NULL) {
            return REASON_COUNT;
        }
        reason = export_fill(self->export, 0, PyBytes_AsString(bytes),
                             self->compact.nbytes);
        Py_DECREF(bytes);
        if (reason == REASON_NONE &&
            ranges_add(&self->filled, plan->low, plan->high) < 0) {
            return REASON_COUNT;
        }
        return reason;
    }
    while (reason == REASON_NONE &&
           ranges_find_gap(&self->filled, plan->low, plan->high, &gap)) {
        reason = export_fill(self->export, offset_of(self, gap.low), gap.low,
                             gap.high - gap.low);
        /* Read after the watch began, if one has. */
        if (reason == REASON_NONE &&
            (ranges_add(&self->filled, gap.low, gap.high) < 0 ||
             remember(self, gap.low, gap.high) < 0)) {
            return REASON_COUNT;
        }
    }
    return reason;
}

/* ---- The choice ---------------------------------------------------------- */

/* Where the last array of the chain has its elements, if without gaps. */
static void
find_memory(PyArrayObject *array, Request *request)
{
    npy_intp itemsize = PyDataType_ELSIZE(PyArray_DESCR(array)), low, high;
    npy_intp nbytes =
        layout_nbytes(PyArray_NDIM(array), PyArray_DIMS(array), itemsize);
    const Plan *plan = request->plan;
    request->low = request->high = NULL;
    if (nbytes >= 0 &&
        layout_bounds(PyArray_NDIM(array), PyArray_DIMS(array),
                      PyArray_STRIDES(array), itemsize, &low, &high) == 0 &&
        high - low <= nbytes && PyArray_BYTES(array) + low <= plan->low &&
        PyArray_BYTES(array) + high >= plan->high) {
        request->low = PyArray_BYTES(array) + low;
        request->high = PyArray_BYTES(array) + high;
    } else if (plan->high - plan->low <= request->compact.nbytes) {
        request->low = plan->low;
        request->high = plan->high;
    }
}

static bool
has_all(const Image *self, const Plan *plan)
{
    Range gap;
    return !ranges_find_gap(&self->filled, plan->low, plan->high, &gap);
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
    if (span - used <= used / 2) {
        return false;
    }
    for (size_t i = 0; i < state->image_count; i++) {
        const Image *image = (const Image *)state->images[i];
        if (is_of_memory(image, request) && has_all(image, plan)) {
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

/* New reference, or NULL: with an exception, or *reason. */
static Image *
make(State *state, const Request *request, bool compact, Reason *reason)
{
    const Plan *plan = request->plan;
    const char *folder = request->message->export_folder != NULL
                             ? PyBytes_AsString(request->message->export_folder)
                             : NULL;
    Image *self = (Image *)PyType_GenericAlloc(state->image_type, 0);
    if (self == NULL) {
        return NULL;
    }
    self->state = state;
    self->low = compact ? plan->low : request->low;
    self->high = compact ? plan->high : request->high;
    self->is_compact = compact;
    self->compact = request->compact;
    npy_intp size =
        compact ? request->compact.nbytes : offset_of(self, self->high);
    self->export = export_new(state, folder, size, false, reason);
    if (self->export != NULL) {
        *reason = export_seal(self->export, true);
    }
    if (self->export == NULL || *reason != REASON_NONE) {
        Py_DECREF((PyObject *)self);
        return NULL;
    }
    return self;
}

/* New reference: an image that has the elements as they are now. NULL with an
 * exception, or *reason. */
static Image *
get(State *state, const Request *request, Reason *reason)
{
    bool compact = wants_compact(state, request), changes = false;
    Image *known = find(state, request, compact);
    Image *self = NULL;
    bool listed = true;
    if (known != NULL && known->is_busy) {
        /* It would be waited for, maybe by who works on it. */
        listed = false;
    } else if (known != NULL) {
        self = (Image *)Py_NewRef((PyObject *)known);
        self->is_busy = true;
        int same = prove(self, request);
        self->is_busy = false;
        if (same != 1) {
            changes = true;
            forget(self);
            Py_CLEAR(self);
        }
        if (same < 0) {
            return NULL;
        }
    }
    if (self == NULL) {
        self = make(state, request, compact, reason);
        if (self == NULL) {
            return NULL;
        }
        self->changes = changes;
        self->message = request->message->first_number;
        if (listed && list(self, request->owner.last_array) < 0) {
            Py_DECREF((PyObject *)self);
            return NULL;
        }
    }
    self->is_busy = true;
    *reason = fill(self, request->plan);
    self->is_busy = false;
    if (*reason == REASON_NONE && ranges_add(&self->proven, request->plan->low,
                                             request->plan->high) < 0) {
        *reason = REASON_COUNT;
    }
    if (self->owner_ref == NULL) {
        unwatch(self); /* forgotten meanwhile */
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
    find_memory((PyArrayObject *)request->owner.last_array, request);
    return 0;
}

/* New reference: the plan's layout is that of the view on the image. */
static PyObject *
use(Image *self, const Request *request, Plan *plan)
{
    if (self->is_compact) {
        compact_use(&request->compact, plan);
    } else {
        plan->layout.offset = offset_of(self, plan->data);
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
image_find(Outgoing *message, PyArrayObject *array, Plan *plan, Reason *reason)
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
image_join(Outgoing *message, PyArrayObject *array, Plan *plan)
{
    Request request;
    State *state = message->state;
    Range gap;
    if (state->image_count == 0) {
        return NULL;
    }
    if (make_request(message, array, plan, &request) < 0) {
        return NULL;
    }
    Image *image = find(state, &request, false);
    if (image == NULL || image->is_busy ||
        image->message != message->first_number ||
        ranges_find_gap(&image->proven, plan->low, plan->high, &gap)) {
        return NULL;
    }
    return use(image, &request, plan);
}

/* ---- The end ------------------------------------------------------------- */

PyObject *
image_forget_all(PyObject *module, PyObject *Py_UNUSED(ignored))
{
    State *state = PyModule_GetState(module);
    while (state->image_count > 0) {
        forget((Image *)state->images[state->image_count - 1]);
    }
    Py_RETURN_NONE;
}

void
image_clear_all(State *state)
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
image_after_fork(State *state)
{
    /* First: what the parent watches stays watched. */
    writes_close(&state->watch);
    image_clear_all(state);
}

static void
image_dealloc(Image *self)
{
    PyTypeObject *type = Py_TYPE((PyObject *)self);
    unwatch(self);
    ranges_clear(&self->filled);
    ranges_clear(&self->proven);
    Py_XDECREF((PyObject *)self->export);
    Py_XDECREF(self->owner_ref);
    PyObject_Free(self);
    Py_DECREF(type);
}

static PyType_Slot image_slots[] = {
    {Py_tp_doc, "What a memory file has of ordinary memory."},
    {Py_tp_dealloc, image_dealloc},
    {0, NULL},
};

PyType_Spec image_spec = {
    .name = "samemap._core.Image",
    .basicsize = sizeof(Image),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE |
             Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = image_slots,
};
