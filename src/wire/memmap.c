/* Owns both directions of the header of an np.memmap, and what is kept of it.
 */
#include "wire/memmap.h"

#include "message.h"

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
    if (attributes->mode != state->str_r_plus &&
        attributes->mode != state->str_r && PyUnicode_Check(attributes->mode) &&
        PyUnicode_Compare(attributes->mode, state->str_w_plus) == 0) {
        attributes->mode = state->str_r_plus;
    }
    return PyErr_Occurred() ? -1 : 0;
}

static bool
is_shared_mode(const State *state, PyObject *mode)
{
    return mode == state->str_r_plus || mode == state->str_r ||
           (PyUnicode_Check(mode) &&
            (PyUnicode_Compare(mode, state->str_r_plus) == 0 ||
             PyUnicode_Compare(mode, state->str_r) == 0));
}

/* New reference: that of a backing is kept, so that the pickler writes it once.
 */
static PyObject *
make_tuple(const State *state, PyObject *owner, const Attributes *attributes,
           MemmapHeader *kept)
{
    PyObject *tuple = kept != NULL ? kept->tuple : NULL;
    if (tuple != NULL && PyTuple_GetItem(tuple, 1) == attributes->filename &&
        PyTuple_GetItem(tuple, 2) == attributes->offset &&
        PyTuple_GetItem(tuple, 3) == attributes->mode) {
        return Py_NewRef(tuple);
    }
    tuple = PyTuple_Pack(HEADER_SIZE, owner, attributes->filename,
                         attributes->offset, attributes->mode);
    if (tuple != NULL && kept != NULL) {
        kept->tuple_is_shared = is_shared_mode(state, attributes->mode);
        core_set(&kept->tuple, Py_NewRef(tuple));
    }
    return tuple;
}

/* What `root` had for the last view that was no np.memmap: the pickler keeps
 * all that it has written until the message ends, so the address is still that
 * of the same one. */
static bool
is_found(const MemmapHeader *kept, PyObject *root, uint64_t message)
{
    return kept != NULL && kept->sender == root && kept->message == message &&
           !message_is_implicit(message);
}

int
memmap_find(State *state, PyObject *array, PyObject *root, PyObject *owner,
            MemmapHeader *kept, uint64_t message, MemmapFound *found)
{
    Attributes attributes;
    bool is_memmap = Py_TYPE(array) == state->memmap_type;
    *found = (MemmapFound){NULL, false, false};
    if (!is_memmap && root == NULL) {
        return 0;
    }
    if (!is_memmap && is_found(kept, root, message)) {
        found->tuple = Py_NewRef(kept->tuple);
        return 0;
    }
    if (get_attributes(state, is_memmap ? array : root, &attributes) < 0) {
        return -1;
    }
    found->has_mmap = is_memmap && attributes.has_mmap;
    if (is_memmap && root != NULL && root != array &&
        attributes.mode == Py_None) {
        found->is_bare = true;
        if (get_attributes(state, root, &attributes) < 0) {
            return -1;
        }
    }
    found->tuple = make_tuple(state, owner, &attributes, kept);
    if (kept != NULL) {
        kept->sender = is_memmap ? NULL : root;
        kept->message = message;
    }
    return found->tuple != NULL ? 0 : -1;
}

PyObject *
memmap_with_memory(PyObject *tuple, PyObject *memory)
{
    return PyTuple_Pack(HEADER_SIZE, memory, PyTuple_GetItem(tuple, 1),
                        PyTuple_GetItem(tuple, 2), PyTuple_GetItem(tuple, 3));
}

bool
memmap_is_shared(const State *state, PyObject *tuple, const MemmapHeader *kept)
{
    return tuple == kept->tuple
               ? kept->tuple_is_shared
               : is_shared_mode(state, PyTuple_GetItem(tuple, 3));
}

bool
memmap_has_mode(PyObject *tuple)
{
    return PyUnicode_Check(PyTuple_GetItem(tuple, 3));
}

/* New reference: {filename, offset, mode, _mmap: None}. */
static PyObject *
new_dict(State *state, PyObject *tuple)
{
    PyObject *dict = PyDict_New();
    PyObject *filename = tuple != NULL ? PyTuple_GetItem(tuple, 1) : Py_None;
    PyObject *offset = tuple != NULL ? PyTuple_GetItem(tuple, 2) : Py_None;
    PyObject *mode = tuple != NULL ? PyTuple_GetItem(tuple, 3) : Py_None;
    if (dict != NULL &&
        (PyDict_SetItem(dict, state->str_filename, filename) < 0 ||
         PyDict_SetItem(dict, state->str_offset, offset) < 0 ||
         PyDict_SetItem(dict, state->str_mode, mode) < 0 ||
         PyDict_SetItem(dict, state->str__mmap, Py_None) < 0)) {
        Py_CLEAR(dict);
    }
    return dict;
}

/* New reference: such a dict, copied from that of the last view if it can be.
 */
static PyObject *
copy_dict(State *state, PyObject *tuple, MemmapHeader *kept)
{
    if (kept == NULL || tuple == NULL) {
        return new_dict(state, tuple);
    }
    if (kept->dict == NULL || kept->filename != PyTuple_GetItem(tuple, 1) ||
        kept->offset != PyTuple_GetItem(tuple, 2) ||
        kept->mode != PyTuple_GetItem(tuple, 3)) {
        PyObject *dict = new_dict(state, tuple);
        if (dict == NULL) {
            return NULL;
        }
        core_set(&kept->dict, dict);
        kept->filename = PyTuple_GetItem(tuple, 1);
        kept->offset = PyTuple_GetItem(tuple, 2);
        kept->mode = PyTuple_GetItem(tuple, 3);
    }
    return PyDict_Copy(kept->dict);
}

/* np.memmap.__array_finalize__ is Python code that would cost as much as all
 * the rest, to set four attributes to None: so the array has been built without
 * it, and gets here what np.memmap.__new__ would set. */
int
memmap_finish(State *state, PyObject *array, PyObject *tuple,
              MemmapHeader *kept, PyObject *map)
{
    int result = -1;
    PyObject *dict = copy_dict(state, tuple, kept);
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

/* New reference: the root of last time, if it has these attributes and is
 * alive; NULL without an exception otherwise. */
static PyObject *
known_root(PyObject *tuple, const MemmapHeader *kept)
{
    /* The three are compared as addresses: while the root is alive, it holds
     * them. */
    if (kept->root == NULL ||
        kept->root_filename != PyTuple_GetItem(tuple, 1) ||
        kept->root_offset != PyTuple_GetItem(tuple, 2) ||
        kept->root_mode != PyTuple_GetItem(tuple, 3)) {
        return NULL;
    }
    PyObject *root = PyObject_CallNoArgs(kept->root);
    if (root == Py_None) {
        Py_CLEAR(root);
    }
    return root;
}

/* Bytes from the map's start to where the root's data are; -1 (no exception)
 * when the attributes don't say, or something outside. */
static intptr_t
root_position(PyObject *tuple, const Mapping *mapping)
{
    PyObject *py_offset = PyTuple_GetItem(tuple, 2);
    if (!PyLong_Check(py_offset) || !memmap_has_mode(tuple)) {
        return -1;
    }
    unsigned long long offset = PyLong_AsUnsignedLongLong(py_offset);
    if (PyErr_Occurred()) {
        PyErr_Clear(); /* set by hand: no offset of a file */
        return -1;
    }
    if (offset < mapping->file_offset ||
        offset - mapping->file_offset > (uint64_t)mapping->length) {
        return -1;
    }
    return (intptr_t)(offset - mapping->file_offset);
}

PyObject *
memmap_root(State *state, PyObject *tuple, const Mapping *mapping,
            MemmapHeader *kept, PyObject *map)
{
    PyObject *root = known_root(tuple, kept);
    if (root != NULL || PyErr_Occurred()) {
        return root;
    }
    intptr_t position = root_position(tuple, mapping);
    if (position < 0) {
        return Py_NewRef(map);
    }
    npy_intp length = mapping->length - position;
    root = PyArray_NewFromDescr(
        state->bare_memmap_type, PyArray_DescrFromType(NPY_UINT8), 1, &length,
        NULL, mapping->start + position,
        mapping_is_writable(mapping) ? NPY_ARRAY_CARRAY : NPY_ARRAY_CARRAY_RO,
        NULL);
    if (root == NULL) {
        return NULL;
    }
    PyObject *reference = NULL;
    if (PyArray_SetBaseObject((PyArrayObject *)root, Py_NewRef(map)) < 0 ||
        memmap_finish(state, root, tuple, kept, map) < 0 ||
        (reference = PyWeakref_NewRef(root, NULL)) == NULL) {
        Py_DECREF(root);
        return NULL;
    }
    core_set(&kept->root, reference);
    kept->root_filename = PyTuple_GetItem(tuple, 1);
    kept->root_offset = PyTuple_GetItem(tuple, 2);
    kept->root_mode = PyTuple_GetItem(tuple, 3);
    return root;
}

void
memmap_forget(MemmapHeader *kept)
{
    kept->sender = NULL;
    Py_CLEAR(kept->tuple);
}

void
memmap_clear(MemmapHeader *kept)
{
    kept->sender = NULL;
    Py_CLEAR(kept->tuple);
    Py_CLEAR(kept->dict);
    Py_CLEAR(kept->root);
}

/* A subclass of np.memmap whose instances NumPy builds without a call of
 * Python code; memmap_finish then sets their __class__. */
int
memmap_init(State *state)
{
    PyObject *finalize =
        PyObject_GetAttrString((PyObject *)&PyArray_Type, "__array_finalize__");
    if (finalize == NULL) {
        return -1;
    }
    state->bare_memmap_type = (PyTypeObject *)PyObject_CallFunction(
        (PyObject *)&PyType_Type, "s(O){s()sN}", "bare_memmap",
        (PyObject *)state->memmap_type, "__slots__", "__array_finalize__",
        finalize);
    return state->bare_memmap_type != NULL ? 0 : -1;
}
