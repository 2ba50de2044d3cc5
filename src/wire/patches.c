/* Owns both directions of the patches; their grammar is in the header. */
#include "wire/patches.h"

#include <string.h>

int
patches_encode(PyObject *parts, npy_intp offset, const char *bytes,
               npy_intp size)
{
    PyObject *py_offset = PyLong_FromSsize_t(offset);
    PyObject *py_bytes = PyBytes_FromStringAndSize(bytes, size);
    int result = -1;
    if (py_offset != NULL && py_bytes != NULL &&
        PyList_Append(parts, py_offset) == 0 &&
        PyList_Append(parts, py_bytes) == 0) {
        result = 0;
    }
    Py_XDECREF(py_offset);
    Py_XDECREF(py_bytes);
    return result;
}

PyObject *
patches_of_elements(PyObject *elements)
{
    if (elements == NULL) {
        return NULL;
    }
    PyObject *parts = PyTuple_Pack(2, Py_None, elements);
    Py_DECREF(elements);
    return parts;
}

/* Index of the first patch that ends after `offset`. */
static size_t
find(const Patches *set, npy_intp offset)
{
    size_t low = 0, high = set->count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (set->items[middle].high <= offset) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low;
}

/* Puts `bytes` at index i: 0 or -1. */
static int
insert(Patches *set, size_t i, npy_intp low, PyObject *bytes)
{
    if (set->count == set->room) {
        size_t room = set->room > 0 ? 2 * set->room : 4;
        Patch *larger = PyMem_Realloc(set->items, room * sizeof(*larger));
        if (larger == NULL) {
            PyErr_NoMemory();
            return -1;
        }
        set->items = larger;
        set->room = room;
    }
    memmove(set->items + i + 1, set->items + i,
            (set->count - i) * sizeof(*set->items));
    set->items[i] =
        (Patch){low, low + PyBytes_Size(bytes), Py_NewRef(bytes), false};
    set->count++;
    assert(i == 0 || set->items[i - 1].high <= low);
    assert(i + 1 == set->count || set->items[i + 1].low >= set->items[i].high);
    return 0;
}

/* Adds what of [low, low + size of bytes) isn't there yet: 0 or -1. */
static int
add(Patches *set, npy_intp low, PyObject *bytes)
{
    npy_intp start = low, high = low + PyBytes_Size(bytes);
    while (low < high) {
        size_t i = find(set, low);
        npy_intp end = high;
        if (i < set->count && set->items[i].low <= low) {
            low = set->items[i].high;
            continue;
        }
        if (i < set->count && set->items[i].low < high) {
            end = set->items[i].low;
        }
        PyObject *gap =
            end - low == PyBytes_Size(bytes)
                ? Py_NewRef(bytes)
                : PyBytes_FromStringAndSize(
                      PyBytes_AsString(bytes) + (low - start), end - low);
        if (gap == NULL || insert(set, i, low, gap) < 0) {
            Py_XDECREF(gap);
            return -1;
        }
        Py_DECREF(gap);
        low = end;
    }
    return 0;
}

int
patches_decode(PyObject *parts, npy_intp length, Patches *set,
               PyObject **elements)
{
    *elements = NULL;
    if (parts == Py_None) {
        return 0;
    }
    if (!PyTuple_CheckExact(parts) || PyTuple_Size(parts) % 2 != 0) {
        PyErr_SetString(PyExc_TypeError,
                        "patches must be a tuple of pairs of offset and bytes");
        return -1;
    }
    for (Py_ssize_t i = 0; i < PyTuple_Size(parts); i += 2) {
        PyObject *where = PyTuple_GetItem(parts, i);
        PyObject *bytes = PyTuple_GetItem(parts, i + 1);
        if (!PyBytes_CheckExact(bytes)) {
            PyErr_SetString(PyExc_TypeError,
                            "patches must be pairs of offset and bytes");
            return -1;
        }
        if (where == Py_None) {
            *elements = bytes;
            continue;
        }
        Py_ssize_t offset = PyLong_AsSsize_t(where);
        if (offset == -1 && PyErr_Occurred()) {
            return -1;
        }
        if (offset < 0 || PyBytes_Size(bytes) > length ||
            offset > length - PyBytes_Size(bytes)) {
            PyErr_SetString(PyExc_ValueError,
                            "a patch reaches outside the mapping");
            return -1;
        }
        if (add(set, offset, bytes) < 0) {
            return -1;
        }
    }
    return 0;
}

void
patches_apply(const Patches *set, npy_intp low, npy_intp high, char *memory)
{
    for (size_t i = find(set, low); i < set->count && set->items[i].low < high;
         i++) {
        const Patch *patch = &set->items[i];
        npy_intp first = patch->low > low ? patch->low : low;
        npy_intp last = patch->high < high ? patch->high : high;
        memcpy(memory + (first - low),
               PyBytes_AsString(patch->bytes) + (first - patch->low),
               (size_t)(last - first));
    }
}

void
patches_apply_new(Patches *set, npy_intp low, npy_intp high, char *memory)
{
    for (size_t i = find(set, low); i < set->count && set->items[i].low < high;
         i++) {
        Patch *patch = &set->items[i];
        if (!patch->applied) {
            memcpy(memory + patch->low, PyBytes_AsString(patch->bytes),
                   (size_t)(patch->high - patch->low));
            patch->applied = true;
        }
    }
}

void
patches_renew(Patches *set)
{
    for (size_t i = 0; i < set->count; i++) {
        set->items[i].applied = false;
    }
}

void
patches_clear(Patches *set)
{
    for (size_t i = 0; i < set->count; i++) {
        Py_DECREF(set->items[i].bytes);
    }
    PyMem_Free(set->items);
    *set = (Patches){NULL, 0, 0};
}
