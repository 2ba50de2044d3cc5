/* Owns the bytes of an image, and the proof that they are what the memory has.
 *
 * The proof costs what it must: memory that is sent a second time is compared,
 * and watched from then on if the system can (os/writes); what was seen to
 * change is compared each time.
 */
#include "sender/image.h"

#include "os/page.h"

/* Bytes that are compared first: they tell of most changes. */
#define SAMPLE (1 << 16)

void
image_unwatch(Image *self)
{
    if (self->watched_low < self->watched_high) {
        writes_disarm(&self->state->watch, self->watched_low,
                      self->watched_high);
    }
    self->watched_low = self->watched_high = 0;
    ranges_clear(&self->compared);
}

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

/* To watch pages anew takes from them what was seen: other images of this
 * memory, of another owner or other elements, learn of writes no more. Both by
 * turns would cost more than to compare, so one has to give way for good: false
 * if that is this one, of some elements only. */
static bool
take_over(Image *self, uintptr_t low, uintptr_t high)
{
    const State *state = self->state;
    for (size_t i = 0; i < state->image_count; i++) {
        Image *other = (Image *)state->images[i];
        if (other == self || other->watched_low >= high ||
            other->watched_high <= low) {
            continue;
        }
        if (self->is_compact) {
            self->changes = true;
            return false;
        }
        other->changes = true;
        image_unwatch(other);
    }
    return true;
}

/* Begins to watch [low, high): false if that can't be. */
static bool
watch(Image *self, uintptr_t low, uintptr_t high)
{
    int result;
    State *state = self->state;
    if (state->is_arming) {
        /* What another thread arms now may be the same pages. */
        return false;
    }
    if (!take_over(self, low, high)) {
        return false;
    }
    state->is_arming = true;
    Py_BEGIN_ALLOW_THREADS
    result = writes_arm(&state->watch, low, high);
    Py_END_ALLOW_THREADS
    state->is_arming = false;
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
    image_unwatch(self);
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

/* Watching [low, high), all that the file has, would pay: at least twice as
 * much as is watched. What was filled later would be compared for ever. */
static bool
wants_watch(const Image *self, uintptr_t *low, uintptr_t *high)
{
    if (self->changes || self->filled.count == 0) {
        return false;
    }
    const Range *last = &self->filled.items[self->filled.count - 1];
    char *start = self->filled.items[0].low;
    return writes_pages(start, (size_t)(last->high - start), low, high) &&
           *high - *low >= 2 * (self->watched_high - self->watched_low);
}

/* What the file has of the memory that the view spans: 1, 0, or -1. */
static int
prove_memory(Image *self, const Plan *plan)
{
    uintptr_t low, high;
    is_unwritten(self); /* or else it isn't watched any more */
    if (wants_watch(self, &low, &high)) {
        char *end =
            plan->high - plan->low > SAMPLE ? plan->low + SAMPLE : plan->high;
        if (!compare_memory(self, plan->low, end)) {
            return 0;
        }
        image_unwatch(self);
        watch(self, low, high);
    }
    if (!compare_memory(self, plan->low, plan->high)) {
        return 0;
    }
    return remember(self, plan->low, plan->high) < 0 ? -1 : 1;
}

int
image_prove(Image *self, const Outgoing *message, const Plan *plan)
{
    if (image_is_proven(self, message, plan)) {
        return 1;
    }
    if (self->message != message->first_number) {
        ranges_clear(&self->proven);
        self->message = message->first_number;
    }
    self->is_busy = true;
    int same = self->is_compact ? prove_elements(self, plan)
                                : prove_memory(self, plan);
    self->is_busy = false;
    return same;
}

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

Reason
image_fill(Image *self, const Outgoing *message, const Plan *plan)
{
    self->is_busy = true;
    Reason reason = fill(self, plan);
    self->is_busy = false;
    if (reason == REASON_NONE) {
        /* A proof of an earlier message gets no younger. */
        self->message =
            self->message != 0 ? self->message : message->first_number;
        if (ranges_add(&self->proven, plan->low, plan->high) < 0) {
            reason = REASON_COUNT;
        }
    }
    return reason;
}

bool
image_has_all(const Image *self, const Plan *plan)
{
    Range gap;
    return !ranges_find_gap(&self->filled, plan->low, plan->high, &gap);
}

bool
image_is_proven(const Image *self, const Outgoing *message, const Plan *plan)
{
    Range gap;
    bool counts = self->message == message->first_number ||
                  (message->since != 0 && self->message > message->since);
    return counts &&
           !ranges_find_gap(&self->proven, plan->low, plan->high, &gap);
}

void
image_use(const Image *self, Plan *plan)
{
    if (self->is_compact) {
        compact_use(&self->compact, plan);
    } else {
        plan->layout.offset = offset_of(self, plan->data);
    }
}

Image *
image_new(State *state, PyObject *folder, char *low, char *high,
          const Compact *compact, Reason *reason)
{
    const char *path = folder != NULL ? PyBytes_AsString(folder) : NULL;
    Image *self = (Image *)PyType_GenericAlloc(state->image_type, 0);
    if (self == NULL) {
        return NULL;
    }
    self->state = state;
    self->low = low;
    self->high = high;
    self->is_compact = compact != NULL;
    if (compact != NULL) {
        self->compact = *compact;
    }
    npy_intp size = compact != NULL ? compact->nbytes : offset_of(self, high);
    self->export = export_new(state, path, size, false, reason);
    if (self->export != NULL) {
        *reason = export_seal(self->export, true);
    }
    if (self->export == NULL || *reason != REASON_NONE) {
        Py_CLEAR(self);
    }
    return self;
}

static void
image_dealloc(Image *self)
{
    PyTypeObject *type = Py_TYPE((PyObject *)self);
    image_unwatch(self);
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
