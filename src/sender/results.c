/* Owns the choice of memory files for the arrays of a message of results.
 *
 * Views are told apart by their addresses alone: what overlaps or touches goes
 * into one file, and so shares memory on arrival as it did before. All arrays
 * are kept until the message is written, so no address is used again meanwhile.
 * What `results_collect` finds is copied before anything is pickled; arrays
 * that are met later may show memory that was written to since, and are
 * compared with the copy.
 */
#include "sender/results.h"

#include "os/pagemap.h"
#include "sender/compact.h"
#include "sender/export.h"
#include "sender/copy.h"
#include "sender/receipts.h"

#include <stdlib.h>

/* So many items are looked at. */
#define MAX_ITEMS 10000

typedef struct {
    Outgoing *message;
    size_t left;
} Walk;

static bool
is_readable(const Plan *plan, const char *low, const char *high)
{
    return plan->backing == NULL ||
           pagemap_readable((uintptr_t)low, (uintptr_t)high);
}

/* What lies between the elements can be read, too. */
static bool
is_whole(const Plan *plan)
{
    bool has_gaps = plan->high - plan->low > plan->nbytes;
    bool inside =
        plan->low >= plan->memory_low && plan->high <= plan->memory_high;
    return (!has_gaps || inside) && is_readable(plan, plan->low, plan->high);
}

/* An array that arrives as a copy, and as a plain one. */
static bool
is_exportable(const State *state, PyObject *array, const Plan *plan)
{
    if (!PyArray_CheckExact(array) && Py_TYPE(array) != state->memmap_type) {
        return false;
    }
    switch (plan->reason) {
    case REASON_MEMORY:
    case REASON_TEMPORARY:
        return PyDataType_ELSIZE(plan->descr) > 0;
    case REASON_RESULT:
        return plan->memmap == NULL;
    default:
        return false;
    }
}

static Span *
add_span(Outgoing *message, char *low, char *high, npy_intp used)
{
    Span *spans = core_grow(message->spans, message->span_count,
                            &message->span_room, sizeof(*spans));
    if (spans == NULL) {
        return NULL;
    }
    message->spans = spans;
    Span *span = &message->spans[message->span_count++];
    *span = (Span){low, high, used < high - low ? used : high - low, NULL};
    return span;
}

static int
visit_array(Outgoing *message, PyObject *array)
{
    State *state = message->state;
    Plan plan;
    int result = 0;
    if (PyArray_NBYTES((PyArrayObject *)array) < EXPORT_MIN ||
        idmap_find(&message->arguments, array) != NULL) {
        return 0;
    }
    Terms terms = {
        .direction = DIRECTION_BACKWARD,
        .max_nbytes = -1,
        .message = message->number,
    };
    if (plan_make(state, (PyArrayObject *)array, &terms, &plan) < 0) {
        /* It happens again when the array is pickled. */
        PyErr_Clear();
    } else if (is_exportable(state, array, &plan) && is_whole(&plan)) {
        result =
            idmap_add(&message->arguments, array, 0) < 0 ||
                    PyList_Append(message->kept, array) < 0 ||
                    add_span(message, plan.low, plan.high, plan.nbytes) == NULL
                ? -1
                : 0;
    }
    plan_clear(&plan);
    return result;
}

static int visit(Walk *walk, PyObject *object);

static int
visit_items(Walk *walk, PyObject *container)
{
    if (PyDict_CheckExact(container)) {
        PyObject *key, *value;
        Py_ssize_t position = 0;
        while (PyDict_Next(container, &position, &key, &value)) {
            if (visit(walk, value) < 0) {
                return -1;
            }
        }
        return 0;
    }
    bool is_list = PyList_CheckExact(container);
    for (Py_ssize_t i = 0;
         i < (is_list ? PyList_Size(container) : PyTuple_Size(container));
         i++) {
        PyObject *item = is_list ? PyList_GetItem(container, i)
                                 : PyTuple_GetItem(container, i);
        /* NULL: another thread has made the list shorter meanwhile. */
        if (item == NULL || visit(walk, item) < 0) {
            return -1;
        }
    }
    return 0;
}

static int
visit_held(Walk *walk, PyObject *object)
{
    Outgoing *message = walk->message;
    if (!PyTuple_CheckExact(object) && !PyList_CheckExact(object) &&
        !PyDict_CheckExact(object)) {
        return PyArray_Check(object) ? visit_array(message, object) : 0;
    }
    if (idmap_find(&message->arguments, object) != NULL) {
        return 0;
    }
    if (idmap_add(&message->arguments, object, 0) < 0 ||
        PyList_Append(message->kept, object) < 0 ||
        Py_EnterRecursiveCall(" while looking into results") != 0) {
        return -1;
    }
    int result = visit_items(walk, object);
    Py_LeaveRecursiveCall();
    return result;
}

static int
visit(Walk *walk, PyObject *object)
{
    if (walk->left == 0) {
        return 0;
    }
    walk->left--;
    Py_INCREF(object); /* a container may lose it meanwhile */
    int result = visit_held(walk, object);
    Py_DECREF(object);
    return result;
}

static int
compare_spans(const void *a, const void *b)
{
    const Span *first = a, *second = b;
    return first->low < second->low ? -1 : first->low > second->low;
}

/* Joins spans that overlap or touch. */
static void
merge(Outgoing *message)
{
    size_t count = 0;
    Span *spans = message->spans;
    if (message->span_count == 0) {
        return;
    }
    qsort(spans, message->span_count, sizeof(*spans), compare_spans);
    for (size_t i = 0; i < message->span_count; i++) {
        Span *last = count > 0 ? &spans[count - 1] : NULL;
        if (last == NULL || spans[i].low > last->high) {
            spans[count++] = spans[i];
            continue;
        }
        last->high = spans[i].high > last->high ? spans[i].high : last->high;
        last->used += spans[i].used;
    }
    message->span_count = count;
}

/* New reference: a file that has the bytes [data, data + length) at `offset`.
 * Without an exception NULL, and *reason. */
static Export *
make_export(const Outgoing *message, const char *data, npy_intp offset,
            npy_intp length, Reason *reason)
{
    *reason = REASON_NONE;
    Export *export =
        export_new(message->state, NULL, offset + length, true, reason);
    if (export == NULL) {
        return NULL;
    }
    *reason = export_fill(export, offset, data, length);
    if (*reason == REASON_NONE) {
        *reason = export_seal(export, false);
    }
    if (*reason != REASON_NONE ||
        receipts_expect(export, message->number) < 0) {
        Py_DECREF((PyObject *)export);
        return NULL;
    }
    return export;
}

/* Writes the file of a span, if it is worth one: 0, or -1 with an exception. */
static int
make_file(Outgoing *message, Span *span)
{
    if (message->export_failure != REASON_NONE ||
        span->high - span->low < EXPORT_MIN ||
        !compact_is_dense(span->used, span->high - span->low)) {
        return 0;
    }
    Reason reason;
    span->export =
        (PyObject *)make_export(message, span->low, export_remainder(span->low),
                                span->high - span->low, &reason);
    if (span->export == NULL) {
        message->export_failure = reason;
        return PyErr_Occurred() ? -1 : 0;
    }
    return 0;
}

int
results_collect(Outgoing *message, PyObject *results)
{
    Walk walk = {message, MAX_ITEMS};
    message->kept = PyList_New(0);
    if (message->kept == NULL || visit(&walk, results) < 0) {
        return -1;
    }
    merge(message);
    size_t count = 0;
    for (size_t i = 0; i < message->span_count; i++) {
        Span *span = &message->spans[i];
        if (make_file(message, span) < 0) {
            message->span_count = count;
            return -1;
        }
        if (span->export != NULL) {
            message->spans[count++] = *span;
        }
    }
    message->span_count = count;
    return 0;
}

static const Span *
find_span(const Outgoing *message, const char *low, const char *high)
{
    for (size_t i = message->span_count; i-- > 0;) {
        const Span *span = &message->spans[i];
        if (low >= span->low && high <= span->high) {
            return span;
        }
    }
    return NULL;
}

static PyObject *
use_span(const Span *span, Plan *plan)
{
    plan->layout.offset =
        export_remainder(span->low) + (plan->data - span->low);
    return Py_NewRef(span->export);
}

/* A file for the view and, where that costs little, for all memory that it is a
 * view of: further views may follow. */
static PyObject *
make_span(Outgoing *message, PyObject *array, Plan *plan)
{
    char *low = plan->low, *high = plan->high;
    if (plan->memory_low <= low && plan->memory_high >= high &&
        compact_is_dense(high - low, plan->memory_high - plan->memory_low) &&
        is_readable(plan, plan->memory_low, plan->memory_high)) {
        low = plan->memory_low;
        high = plan->memory_high;
    }
    if (PyList_Append(message->kept, array) < 0) {
        return NULL;
    }
    Span span = {low, high, high - low, NULL};
    if (make_file(message, &span) < 0 || span.export == NULL) {
        return NULL;
    }
    Span *added = add_span(message, low, high, high - low);
    if (added == NULL) {
        Py_DECREF(span.export);
        return NULL;
    }
    added->export = span.export;
    return use_span(added, plan);
}

/* A file for the elements of one view alone, without the gaps between them. */
static PyObject *
make_compact(Outgoing *message, Plan *plan)
{
    Reason reason;
    PyObject *elements = copy_elements(message->state, plan);
    if (elements == NULL) {
        return NULL;
    }
    PyObject *export = (PyObject *)make_export(
        message, PyBytes_AsString(elements), 0, plan->nbytes, &reason);
    Py_DECREF(elements);
    if (export == NULL) {
        message->export_failure = reason;
        return NULL;
    }
    copy_set_c_strides(&plan->layout, PyDataType_ELSIZE(plan->descr));
    plan->layout.offset = 0;
    return export;
}

static PyObject *
find_or_make(Outgoing *message, PyObject *array, Plan *plan, Reason *reason)
{
    npy_intp length = plan->high - plan->low;
    const Span *span = find_span(message, plan->low, plan->high);
    if (span != NULL) {
        /* Held: the comparison releases the GIL. */
        const Span found = *span;
        Py_INCREF(found.export);
        bool same =
            idmap_find(&message->arguments, array) != NULL ||
            export_holds((const Export *)found.export,
                         export_remainder(found.low) + (plan->low - found.low),
                         plan->low, length);
        PyObject *memory = same ? use_span(&found, plan) : NULL;
        Py_DECREF(found.export);
        if (memory != NULL) {
            return memory;
        }
    }
    if (plan->nbytes < EXPORT_MIN || length < EXPORT_MIN) {
        return NULL;
    }
    PyObject *memory = NULL;
    if (message->export_failure == REASON_NONE) {
        memory = is_whole(plan) && compact_is_dense(plan->nbytes, length)
                     ? make_span(message, array, plan)
                     : make_compact(message, plan);
    }
    *reason = memory == NULL && message->export_failure != REASON_NONE
                  ? message->export_failure
                  : *reason;
    return memory;
}

PyObject *
results_memory(Outgoing *message, PyObject *array, Plan *plan, Reason *reason)
{
    if (!is_exportable(message->state, array, plan) ||
        plan->low == plan->high ||
        (message->span_count == 0 && plan->nbytes < EXPORT_MIN)) {
        return NULL;
    }
    PyObject *memory = find_or_make(message, array, plan, reason);
    if (memory != NULL) {
        plan->layout.flags &=
            LAYOUT_WRITEABLE | LAYOUT_LOCKED | LAYOUT_UNALIGNED;
        plan->layout.flags |= LAYOUT_PRIVATE;
    }
    return memory;
}

bool
results_are_mapped(const Outgoing *message, PyArrayObject *array)
{
    return message->kept != NULL && PyArray_NBYTES(array) >= EXPORT_MIN &&
           !PyDataType_REFCHK(PyArray_DESCR(array));
}

void
results_clear(Outgoing *message)
{
    for (size_t i = 0; i < message->span_count; i++) {
        Py_CLEAR(message->spans[i].export);
    }
    PyMem_Free(message->spans);
    message->spans = NULL;
    message->span_count = message->span_room = 0;
    Py_CLEAR(message->kept);
}
