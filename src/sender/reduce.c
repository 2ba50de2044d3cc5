/* Owns the reduction of arrays: what a pickler writes for each.
 *
 * It names `rebuild` and shares the backing (or, for np.memmap, the tuple
 * around it) with all other views of the same map, so that the pickler's memo
 * writes that once.
 */
#include "sender/reduce.h"

#include "errors.h"
#include "sender/copy.h"
#include "sender/export.h"
#include "sender/images.h"
#include "sender/results.h"
#include "sender/scan.h"
#include "wire/patches.h"

/* Arrays in memory up to this many bytes go as bytes and layout, which is
 * quicker than NumPy's own reduction; larger ones without a copy. */
#define SMALL_MAX (1 << 14)

/* New reference: (function, (memory, layout[, dtype[, patches]])) for a view in
 * `memory`, a Backing or bytes or a header around them. */
static PyObject *
make_reduction(PyObject *function, PyObject *memory, const Plan *plan)
{
    PyObject *args = NULL, *reduction = NULL;
    PyObject *dtype = plan->layout.typenum == LAYOUT_NO_TYPENUM
                          ? (PyObject *)plan->descr
                          : Py_None;
    PyObject *layout = layout_encode(&plan->layout);
    if (layout == NULL) {
        return NULL;
    }
    if (plan->patches != NULL) {
        args = PyTuple_Pack(4, memory, layout, dtype, plan->patches);
    } else if (dtype != Py_None) {
        args = PyTuple_Pack(3, memory, layout, dtype);
    } else {
        args = PyTuple_Pack(2, memory, layout);
    }
    if (args != NULL) {
        reduction = PyTuple_Pack(2, function, args);
    }
    Py_XDECREF(args);
    Py_DECREF(layout);
    return reduction;
}

static void
count(const Reducer *self, Count *counter, npy_intp nbytes)
{
    if (self->counted) {
        counter->arrays++;
        counter->bytes += (uint64_t)nbytes;
    }
}

static PyObject *
reduce_reference(State *state, Outgoing *message, Plan *plan)
{
    bool private = plan->layout.flags & LAYOUT_PRIVATE;
    bool pending = private && message != NULL && message->phase == PHASE_TASKS;
    if (plan->patch_is_elements) {
        plan->patches = patches_of_elements(copy_elements(state, plan));
        if (plan->patches == NULL) {
            return NULL;
        }
    }
    PyObject *memory =
        plan->memmap != NULL ? plan->memmap : (PyObject *)plan->backing;
    PyObject *reduction =
        make_reduction(pending ? state->pending : state->rebuild, memory, plan);
    if (reduction != NULL && plan_mark_sent(plan) < 0) {
        Py_CLEAR(reduction);
    }
    if (reduction != NULL && pending) {
        message->pending++;
    }
    return reduction;
}

/* By exact value. `shared`: several tasks get the array, and each a copy of it.
 */
static PyObject *
reduce_copy(State *state, Outgoing *message, Plan *plan, bool writable,
            bool shared)
{
    PyObject *memory = copy_view(state, plan, writable && !shared);
    if (memory == NULL) {
        return NULL;
    }
    plan->layout.flags &= ~(unsigned)LAYOUT_HAS_MMAP;
    if (!writable) {
        plan->layout.flags &= ~(unsigned)LAYOUT_WRITEABLE;
    }
    if (plan->memmap != NULL && plan->reason != REASON_TEMPORARY) {
        core_set(&memory, memmap_with_memory(plan->memmap, memory));
    } else {
        plan->layout.flags &= ~(unsigned)LAYOUT_MEMMAP;
    }
    PyObject *reduction = NULL;
    if (memory != NULL) {
        reduction = make_reduction(shared ? state->pending : state->rebuild,
                                   memory, plan);
        Py_DECREF(memory);
    }
    if (reduction != NULL && shared) {
        message->pending++;
    }
    return reduction;
}

/* joblib dumps an array of this size to a file instead of pickling it. */
static bool
is_dumped(const Reducer *self, const Plan *plan)
{
    return self->stock != Py_None && self->max_nbytes >= 0 &&
           plan->nbytes > self->max_nbytes;
}

/* joblib's behaviour, and for small plain arrays the same in less time. */
static PyObject *
reduce_memory(const Reducer *self, PyObject *array, Outgoing *message,
              Plan *plan, bool shared)
{
    State *state = self->state;
    PyArrayObject *np_array = (PyArrayObject *)array;
    if (plan->reason != REASON_OBJECTS && is_dumped(self, plan)) {
        return core_call(self->stock, array);
    }
    bool exact =
        PyArray_CheckExact(array) || (Py_TYPE(array) == state->memmap_type &&
                                      self->direction == DIRECTION_FORWARD);
    bool simple = PyArray_CHKFLAGS(np_array, NPY_ARRAY_ALIGNED) &&
                  PyArray_ISNOTSWAPPED(np_array) &&
                  (PyArray_IS_C_CONTIGUOUS(np_array) ||
                   PyArray_IS_F_CONTIGUOUS(np_array));
    bool small = plan->nbytes <= SMALL_MAX && PyArray_CheckExact(array) &&
                 plan->layout.typenum != LAYOUT_NO_TYPENUM;
    /* What isn't simple NumPy's own reduction brings into another layout or
     * byte order. */
    if (plan->reason != REASON_OBJECTS && PyDataType_ELSIZE(plan->descr) > 0 &&
        exact && (shared || small || !simple)) {
        return reduce_copy(state, message, plan, PyArray_ISWRITEABLE(np_array),
                           shared);
    }
    if (self->direction == DIRECTION_BACKWARD &&
        Py_TYPE(array) == state->memmap_type) {
        /* As joblib does: a result that was computed is no memmap. */
        PyObject *plain = PyArray_View(np_array, NULL, &PyArray_Type);
        if (plain == NULL) {
            return NULL;
        }
        PyObject *reduction =
            PyObject_CallMethod(plain, "__reduce_ex__", "i", 5);
        Py_DECREF(plain);
        return reduction;
    }
    return PyObject_CallMethod(array, "__reduce_ex__", "i", 5);
}

static void
set_strict_error(State *state, PyObject *array, const Plan *plan)
{
    const Layout *layout = &plan->layout;
    const char *path = reach_path(&plan->backing->reach);
    PyObject *shape = PyArray_IntTupleFromIntp(layout->ndim, layout->shape);
    PyObject *where =
        PyUnicode_DecodeFSDefault(*path != '\0' ? path : "no file");
    if (shape != NULL && where != NULL) {
        PyErr_Format(state->strict_error,
                     "%R of shape %R and dtype %S on mapped memory (%R) would "
                     "be copied: %s",
                     (PyObject *)Py_TYPE(array), shape, (PyObject *)plan->descr,
                     where, reason_sentence(plan->reason));
    }
    Py_XDECREF(where);
    Py_XDECREF(shape);
}

/* By a memory file. NULL without an exception: it has to go another way, and
 * *counted is the reason that is counted for it. */
static PyObject *
reduce_result(const Reducer *self, PyObject *array, Outgoing *message,
              Plan *plan, Reason *counted)
{
    State *state = self->state;
    PyObject *memory = results_memory(message, array, plan, counted);
    if (memory == NULL) {
        return NULL;
    }
    count(self, &state->by_value[REASON_EXPORTED], plan->nbytes);
    plan->layout.flags |= self->isolated ? LAYOUT_ALONE : 0;
    PyObject *reduction = make_reduction(state->rebuild, memory, plan);
    Py_DECREF(memory);
    return reduction;
}

/* The array is large and could be had by a memory file. */
static bool
is_exportable(const Reducer *self, PyObject *array, const Outgoing *message,
              const Plan *plan)
{
    const State *state = self->state;
    bool ordinary = plan->reason == REASON_MEMORY ||
                    (plan->reason == REASON_ANONYMOUS && !self->strict &&
                     !plan_is_shared(state, plan));
    return ordinary && self->direction == DIRECTION_FORWARD &&
           message != NULL && message->export_min >= 0 &&
           PyDataType_ELSIZE(plan->descr) > 0 && plan->low < plan->high &&
           (PyArray_CheckExact(array) || Py_TYPE(array) == state->memmap_type);
}

/* On private pages of a memory file. NULL without an exception: it has to go
 * another way, and *counted may be the reason that is counted for it. */
static PyObject *
reduce_export(const Reducer *self, PyObject *array, Outgoing *message,
              Plan *plan, bool is_deep, Reason *counted)
{
    State *state = self->state;
    PyArrayObject *np_array = (PyArrayObject *)array;
    bool is_large = plan->nbytes > message->export_min;
    if (is_large && plan->high - plan->low <= message->export_min) {
        /* It repeats itself: its bytes are few. */
        bool shared =
            message->phase == PHASE_TASKS && scan_is_shared(message, array);
        bool writable = !is_deep && PyArray_ISWRITEABLE(np_array);
        count(self, &state->by_value[plan->reason], plan->nbytes);
        return reduce_copy(state, message, plan, writable, shared);
    }
    PyObject *memory = NULL;
    if (is_large) {
        memory = images_find(message, np_array, plan, counted);
    } else if (!is_deep && !self->isolated) {
        /* In an object it would be read-only, which a copy is not; and one that
         * shares no memory is as well copied. */
        memory = images_join(message, np_array, plan, counted);
    }
    if (memory == NULL) {
        return NULL;
    }
    const npy_intp span = plan->high - plan->low;
    const bool has_room = span <= NPY_MAX_INTP / message->readers &&
                          export_has_memory(state, span * message->readers);
    plan->layout.flags &= ~(unsigned)LAYOUT_HAS_MMAP;
    if (plan->memmap != NULL) {
        core_set(&memory, memmap_with_memory(plan->memmap, memory));
    } else {
        plan->layout.flags &= ~(unsigned)LAYOUT_MEMMAP;
    }
    plan->layout.flags |= LAYOUT_PRIVATE | LAYOUT_MAPPED;
    plan->layout.flags |= self->isolated ? LAYOUT_ALONE : 0;
    if (is_deep || !has_room) {
        /* Several tasks may get to it, or there is no memory for what they
         * would write: read-only, as a dump is. */
        plan->layout.flags &= ~(unsigned)LAYOUT_WRITEABLE;
        plan->layout.flags |= LAYOUT_LOCKED;
    }
    bool pending = message->phase == PHASE_TASKS;
    PyObject *reduction = NULL;
    if (memory != NULL) {
        reduction = make_reduction(pending ? state->pending : state->rebuild,
                                   memory, plan);
        Py_DECREF(memory);
    }
    if (reduction != NULL) {
        message->pending += pending;
        count(self, &state->by_value[REASON_EXPORTED], plan->nbytes);
    }
    return reduction;
}

/* What is written into a copy of the array would be missed elsewhere. */
static bool
is_lost(const Reducer *self, const Plan *plan)
{
    if (plan->reason == REASON_TEMPORARY || plan->reason == REASON_RESULT ||
        !plan_is_shared(self->state, plan)) {
        return false;
    }
    return !self->isolated || self->write_through ||
           plan->backing->mapping.access & MAPPING_REQUESTED;
}

/* As it would be pickled without us. */
static PyObject *
reduce_stock(const Reducer *self, PyObject *array, const Plan *plan)
{
    return copy_check(self->state, plan) == 0
               ? PyObject_CallMethod(array, "__reduce_ex__", "i",
                                     self->protocol)
               : NULL;
}

static PyObject *
reduce_planned(const Reducer *self, PyObject *array, Outgoing *message,
               Plan *plan, bool is_deep)
{
    State *state = self->state;
    bool shared = message != NULL && message->phase == PHASE_TASKS &&
                  scan_is_shared(message, array);
    Reason counted = plan->reason;
    if (message != NULL && message->kept != NULL &&
        self->direction == DIRECTION_BACKWARD) {
        PyObject *reduction =
            reduce_result(self, array, message, plan, &counted);
        if (reduction != NULL || PyErr_Occurred()) {
            return reduction;
        }
    }
    if (is_exportable(self, array, message, plan)) {
        PyObject *reduction =
            reduce_export(self, array, message, plan, is_deep, &counted);
        if (reduction != NULL || PyErr_Occurred()) {
            return reduction;
        }
    }
    switch (plan->reason) {
    case REASON_NONE:
        count(self, &state->by_reference, plan->nbytes);
        return reduce_reference(state, message, plan);
    case REASON_MEMORY:
    case REASON_OBJECTS:
        count(self, &state->by_value[counted], plan->nbytes);
        return self->protocol > 0
                   ? reduce_stock(self, array, plan)
                   : reduce_memory(self, array, message, plan, shared);
    default:
        break;
    }
    if (self->strict && plan->reason != REASON_TEMPORARY &&
        plan->reason != REASON_RESULT) {
        set_strict_error(state, array, plan);
        return NULL;
    }
    count(self, &state->by_value[counted], plan->nbytes);
    if (plan->reason == REASON_ANONYMOUS && is_dumped(self, plan)) {
        return core_call(self->stock, array);
    }
    /* What is written into a copy of memory that others are meant to see it in
     * would be lost without a word: such a copy is read-only. */
    bool lost = is_lost(self, plan);
    if (self->protocol > 0 && !lost) {
        return reduce_stock(self, array, plan);
    }
    /* Several tasks of a batch may get to this one copy. As joblib sends it: a
     * dump is read-only, which those of np.memmap, mode "c", are not. */
    bool refused = is_deep && plan->memmap == NULL && is_dumped(self, plan);
    bool writable = !lost && !refused && plan->layout.flags & LAYOUT_WRITEABLE;
    return reduce_copy(state, message, plan, writable, shared);
}

/* 1: the array is not one that a task has as an argument, or it may be shared
 * with other tasks all the same. 0 if not, or -1 with an exception. */
static int
is_deep(Outgoing *message, PyObject *array)
{
    if (message == NULL) {
        return 0;
    }
    switch (message->phase) {
    case PHASE_OWN_OBJECTS:
    case PHASE_OBJECTS:
        return scan_meet(message, array) < 0 ? -1 : 1;
    case PHASE_PART:
        return !scan_is_argument(message, array);
    default:
        return 0;
    }
}

PyObject *
reduce_array(const Reducer *self, PyObject *array)
{
    Plan plan;
    PyObject *reduction = NULL;
    State *state = self->state;

    Outgoing *message = outgoing_current(state);
    int deep = is_deep(message, array);
    if (deep < 0) {
        return NULL;
    }
    Terms terms = {
        .direction = self->direction,
        .is_deep = deep == 1,
        .write_through = self->write_through,
        .isolated = self->isolated,
        .lasting = self->lasting,
        .max_nbytes = self->max_nbytes,
        .message = outgoing_number(message),
    };
    if (plan_make(state, (PyArrayObject *)array, &terms, &plan) == 0) {
        reduction = reduce_planned(self, array, message, &plan, terms.is_deep);
    }
    plan_clear(&plan);
    return reduction;
}
