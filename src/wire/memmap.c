/* Owns the header of an np.memmap in a message, and what is kept of it.
 *
 *     (owner, filename, offset, mode)
 *
 * stands where an ndarray has its owner alone: a Backing or bytes when it is
 * written, what they have become when it is read. The others are the attributes
 * of the np.memmap. All views of one map share the tuple, so that the pickler
 * writes it once.
 */
#include "wire/memmap.h"

#define HEADER_SIZE 4

/* Borrowed attributes of an np.memmap, out of its __dict__. */
typedef struct {
    PyObject *filename, *offset, *mode;
    bool has_mmap;
} Attributes;

static int
get_attributes(State *state, PyObject *memmap, Attributes *attributes)
{
    PyObject *dict = PyObject_GenericGetDict(memmap, NULL);
    if (dict == NULL) {
        return -1;
    }
    PyObject *map = PyDict_GetItemWithError(dict, state->str__mmap);
    PyObject *filename = PyDict_GetItemWithError(dict, state->str_filename);
    PyObject *offset = PyDict_GetItemWithError(dict, state->str_offset);
    PyObject *mode = PyDict_GetItemWithError(dict, state->str_mode);
    Py_DECREF(dict); /* the memmap holds it */
    attributes->has_mmap = map != NULL && map != Py_None;
    attributes->filename = filename != NULL ? filename : Py_None;
    attributes->offset = offset != NULL ? offset : Py_None;
    attributes->mode = mode != NULL ? mode : Py_None;
    /* Opening again must not truncate. */
    if (PyUnicode_Check(attributes->mode) &&
        PyUnicode_Compare(attributes->mode, state->str_w_plus) == 0) {
        attributes->mode = state->str_r_plus;
    }
    return PyErr_Occurred() ? -1 : 0;
}

PyObject *
memmap_encode(State *state, PyObject *memmap, PyObject *owner,
              MemmapHeader *kept, bool *has_mmap)
{
    Attributes attributes;
    if (get_attributes(state, memmap, &attributes) < 0) {
        return NULL;
    }
    *has_mmap = attributes.has_mmap;
    PyObject *tuple = kept != NULL ? kept->tuple : NULL;
    if (tuple != NULL && PyTuple_GetItem(tuple, 1) == attributes.filename &&
        PyTuple_GetItem(tuple, 2) == attributes.offset &&
        PyTuple_GetItem(tuple, 3) == attributes.mode) {
        return Py_NewRef(tuple);
    }
    tuple = PyTuple_Pack(HEADER_SIZE, owner, attributes.filename,
                         attributes.offset, attributes.mode);
    if (tuple != NULL && kept != NULL) {
        core_set(&kept->tuple, Py_NewRef(tuple));
    }
    return tuple;
}

PyObject *
memmap_owner(PyObject *memory)
{
    bool header =
        PyTuple_CheckExact(memory) && PyTuple_Size(memory) == HEADER_SIZE;
    return header ? PyTuple_GetItem(memory, 0) : memory;
}

/* New reference: {filename, offset, mode, _mmap: None}. */
static PyObject *
new_dict(State *state, PyObject *memory)
{
    PyObject *dict = PyDict_New();
    if (dict != NULL && (PyDict_SetItem(dict, state->str_filename,
                                        PyTuple_GetItem(memory, 1)) < 0 ||
                         PyDict_SetItem(dict, state->str_offset,
                                        PyTuple_GetItem(memory, 2)) < 0 ||
                         PyDict_SetItem(dict, state->str_mode,
                                        PyTuple_GetItem(memory, 3)) < 0 ||
                         PyDict_SetItem(dict, state->str__mmap, Py_None) < 0)) {
        Py_CLEAR(dict);
    }
    return dict;
}

/* New reference: such a dict, copied from that of the last view if it can be.
 */
static PyObject *
copy_dict(State *state, PyObject *memory, MemmapHeader *kept)
{
    if (kept == NULL) {
        return new_dict(state, memory);
    }
    if (kept->dict == NULL || kept->filename != PyTuple_GetItem(memory, 1) ||
        kept->offset != PyTuple_GetItem(memory, 2) ||
        kept->mode != PyTuple_GetItem(memory, 3)) {
        PyObject *dict = new_dict(state, memory);
        if (dict == NULL) {
            return NULL;
        }
        core_set(&kept->dict, dict);
        kept->filename = PyTuple_GetItem(memory, 1);
        kept->offset = PyTuple_GetItem(memory, 2);
        kept->mode = PyTuple_GetItem(memory, 3);
    }
    return PyDict_Copy(kept->dict);
}

/* np.memmap.__array_finalize__ is Python code that would cost as much as all
 * the rest, to set four attributes to None: so the array has been built without
 * it, and gets here what np.memmap.__new__ would set. */
int
memmap_finish(State *state, PyObject *array, PyObject *memory,
              MemmapHeader *kept, PyObject *map)
{
    int result = -1;
    PyObject *dict = copy_dict(state, memory, kept);
    if (dict == NULL) {
        return -1;
    }
    if ((map == NULL || PyDict_SetItem(dict, state->str__mmap, map) == 0) &&
        PyObject_SetAttr(array, state->str___class__,
                         (PyObject *)state->memmap_type) == 0 &&
        PyObject_GenericSetDict(array, dict, NULL) == 0) {
        result = 0;
    }
    Py_DECREF(dict);
    return result;
}

void
memmap_forget(MemmapHeader *kept)
{
    Py_CLEAR(kept->tuple);
}

void
memmap_clear(MemmapHeader *kept)
{
    Py_CLEAR(kept->tuple);
    Py_CLEAR(kept->dict);
}
