/* Owns what is known of the arguments of a batch by the owners of their memory.
 */
#include "sender/siblings.h"

#include "sender/compact.h"
#include "sender/owner.h"
#include "wire/layout.h"

/* Bytes that the elements of an array use and span: 0, or -1 when they can't be
 * had or there are none. */
static int
measure(PyArrayObject *array, npy_intp *used, char **low, char **high)
{
    const int ndim = PyArray_NDIM(array);
    const npy_intp *shape = PyArray_DIMS(array);
    npy_intp itemsize = PyDataType_ELSIZE(PyArray_DESCR(array)), first, end;
    if (layout_nbytes(ndim, shape, itemsize) <= 0 ||
        layout_bounds(ndim, shape, PyArray_STRIDES(array), itemsize, &first,
                      &end) < 0) {
        return -1;
    }
    *used = itemsize;
    for (int i = 0; i < ndim; i++) {
        *used *= PyArray_STRIDES(array)[i] != 0 ? shape[i] : 1;
    }
    *low = PyArray_BYTES(array) + first;
    *high = PyArray_BYTES(array) + end;
    return 0;
}

static const Siblings *
find(const Outgoing *message, const void *last_array)
{
    const intptr_t *index = idmap_find(&message->owners, last_array);
    return index != NULL ? &message->siblings[*index] : NULL;
}

/* Those of a new owner, or NULL with an exception. */
static Siblings *
append(Outgoing *message, PyArrayObject *last_array)
{
    size_t count = message->owners.count;
    Siblings *larger = core_grow(message->siblings, count,
                                 &message->siblings_room, sizeof(*larger));
    if (larger == NULL) {
        return NULL;
    }
    message->siblings = larger;
    if (idmap_add(&message->owners, last_array, (intptr_t)count) < 0) {
        return NULL;
    }
    npy_intp used;
    char *low, *high;
    Siblings *siblings = &message->siblings[count];
    *siblings = (Siblings){0};
    siblings->has_gaps =
        measure(last_array, &used, &low, &high) < 0 || high - low > used;
    return siblings;
}

static void
widen(char **low, char **high, char *from, char *to)
{
    *low = *low == NULL || from < *low ? from : *low;
    *high = to > *high ? to : *high;
}

static bool
is_large(const Outgoing *message, PyArrayObject *array)
{
    return PyArray_NBYTES(array) > message->export_min;
}

int
siblings_note(Outgoing *message, PyArrayObject *array, intptr_t task,
              bool again)
{
    if (message->export_min < 0) {
        return 0;
    }
    bool large = is_large(message, array);
    if (!large && PyArray_CHKFLAGS(array, NPY_ARRAY_OWNDATA)) {
        return 0; /* all of its memory, and small */
    }
    Noted *larger = core_grow(message->noted, message->noted_count,
                              &message->noted_room, sizeof(*larger));
    if (larger == NULL) {
        return -1;
    }
    message->noted = larger;
    message->has_large |= large;
    message->noted[message->noted_count++] =
        (Noted){Py_NewRef((PyObject *)array), task, again};
    return 0;
}

static int
add(Outgoing *message, const Noted *noted)
{
    Owner owner;
    npy_intp used;
    char *low, *high;
    PyArrayObject *array = (PyArrayObject *)noted->array;
    if (measure(array, &used, &low, &high) < 0) {
        return 0;
    }
    if (owner_find(message->state, array, &owner) < 0) {
        return -1;
    }
    Siblings *siblings = (Siblings *)find(message, owner.last_array);
    if (siblings == NULL) {
        siblings = append(message, (PyArrayObject *)owner.last_array);
    }
    if (siblings == NULL) {
        return -1;
    }
    /* Of a third task that has the array nobody hears: so it may be any. */
    siblings->is_together |=
        noted->again || (siblings->arrays > 0 && siblings->task == noted->task);
    siblings->task = noted->task;
    if (noted->again) {
        return 0;
    }
    siblings->arrays++;
    if (is_large(message, array) && high - low > message->export_min) {
        if (compact_is_dense(used, high - low)) {
            widen(&siblings->dense_low, &siblings->dense_high, low, high);
        } else {
            widen(&siblings->sparse_low, &siblings->sparse_high, low, high);
        }
    }
    return 0;
}

static void
forget_noted(Outgoing *message)
{
    size_t count = message->noted_count;
    Noted *noted = message->noted;
    message->noted = NULL;
    message->noted_count = message->noted_room = 0;
    for (size_t i = 0; i < count; i++) {
        Py_DECREF(noted[i].array);
    }
    PyMem_Free(noted);
}

int
siblings_settle(Outgoing *message)
{
    int result = 0;
    for (size_t i = 0;
         result == 0 && message->has_large && i < message->noted_count; i++) {
        result = add(message, &message->noted[i]);
    }
    forget_noted(message);
    return result;
}

int
siblings_meet(Outgoing *message, PyArrayObject *array)
{
    Owner owner;
    if (message->owners.count == 0) {
        return 0;
    }
    if (owner_find(message->state, array, &owner) < 0) {
        return -1;
    }
    Siblings *siblings = (Siblings *)find(message, owner.last_array);
    if (siblings != NULL) {
        siblings->is_deep = true;
    }
    return 0;
}

static bool
covers(const Siblings *siblings, const char *low, const char *high)
{
    return !siblings->has_gaps && siblings->dense_low <= low &&
           siblings->dense_high >= high && siblings->dense_low != NULL;
}

bool
siblings_cover(const Outgoing *message, const void *last_array, const char *low,
               const char *high)
{
    const Siblings *siblings = find(message, last_array);
    return siblings != NULL && covers(siblings, low, high);
}

bool
siblings_are_apart(const Outgoing *message, const void *last_array)
{
    const Siblings *siblings = find(message, last_array);
    if (siblings == NULL || siblings->is_deep) {
        return siblings != NULL;
    }
    return siblings->arrays > 1 && siblings->is_together &&
           (siblings->has_gaps ||
            (siblings->sparse_low != NULL &&
             !covers(siblings, siblings->sparse_low, siblings->sparse_high)));
}

void
siblings_clear(Outgoing *message)
{
    forget_noted(message);
    idmap_clear(&message->owners);
    PyMem_Free(message->siblings);
    message->siblings = NULL;
    message->siblings_room = 0;
}
