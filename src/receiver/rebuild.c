/* Owns the building of arrays from a mapping and a layout.
 *
 * PyArray_NewFromDescr checks nothing: every number of the message has been
 * checked against the memory before it is called.
 */
#include "receiver/rebuild.h"

#include "backing.h"
#include "wire/layout.h"
#include "message.h"
#include "registry.h"
#include "receiver/standin.h"

#include <string.h>

/* The memory that a message's first half has become. */
typedef struct {
    PyObject *owner;  /* borrowed: mmap.mmap, bytes, ... */
    Backing *backing; /* owned: that of the owner, or NULL (a copy) */
    char *start;
    npy_intp length;
    bool writable;
    bool patchable; /* a private map: nobody else sees what is written */
} Memory;

static int
get_buffer(PyObject *owner, Memory *memory)
{
    Py_buffer buffer;
    if (PyObject_GetBuffer(owner, &buffer, PyBUF_SIMPLE) < 0) {
        return -1;
    }
    memory->start = buffer.buf;
    memory->length = buffer.len;
    memory->writable = !buffer.readonly;
    PyBuffer_Release(&buffer);
    return 0;
}

/* `backing` is one of those that `owner` keeps mapped. */
static bool
keeps_mapped(State *state, PyObject *owner, PyObject *backing)
{
    Backing *each = registry_of_owner(state, owner);
    while (each != NULL && (PyObject *)each != backing) {
        each = each->place.sibling;
    }
    return each != NULL;
}

static int
get_memory(State *state, PyObject *owner, Memory *memory)
{
    memory->owner = owner;
    memory->backing = NULL;
    memory->patchable = false;
    Backing *backing = state->last;
    if (PyTuple_CheckExact(owner)) {
        /* In the caller, a result may come back to memory of any owner. */
        if (PyTuple_Size(owner) != 2 ||
            !keeps_mapped(state, PyTuple_GetItem(owner, 0),
                          PyTuple_GetItem(owner, 1))) {
            PyErr_SetString(PyExc_ValueError, "no owner and its backing");
            return -1;
        }
        backing = (Backing *)PyTuple_GetItem(owner, 1);
        memory->owner = PyTuple_GetItem(owner, 0);
    } else if (backing == NULL || backing->place.owner_address != owner) {
        backing = PyObject_TypeCheck(owner, state->mmap_type)
                      ? registry_of_owner(state, owner)
                      : NULL;
        state->last = backing;
    }
    if (backing != NULL) {
        memory->backing = (Backing *)Py_NewRef((PyObject *)backing);
        memory->start = backing->mapping.start;
        memory->length = backing->mapping.length;
        memory->writable = mapping_is_writable(&backing->mapping);
        memory->patchable = memory->writable && backing_is_private(backing);
        return 0;
    }
    if (PyBytes_CheckExact(owner) || PyByteArray_CheckExact(owner) ||
        Py_TYPE(owner) == state->mmap_type) {
        return get_buffer(owner, memory);
    }
    PyErr_Format(PyExc_TypeError, "an array can't be rebuilt on %R",
                 (PyObject *)Py_TYPE(owner));
    return -1;
}

/* New reference: the element type, which must not make NumPy follow pointers
 * in the memory or take other lengths than the layout's. */
static PyArray_Descr *
get_descr(State *state, const Layout *layout, PyObject *dtype)
{
    if (layout->typenum != LAYOUT_NO_TYPENUM) {
        PyObject *builtin = layout->typenum < STATE_TYPES
                                ? state->builtin_dtypes[layout->typenum]
                                : NULL;
        if (builtin == NULL || dtype != Py_None) {
            PyErr_SetString(PyExc_ValueError, "damaged type number in layout");
            return NULL;
        }
        return (PyArray_Descr *)Py_NewRef(builtin);
    }
    if (!PyArray_DescrCheck(dtype)) {
        PyErr_Format(PyExc_TypeError, "dtype must be numpy.dtype, not %R",
                     (PyObject *)Py_TYPE(dtype));
        return NULL;
    }
    PyArray_Descr *descr = (PyArray_Descr *)dtype;
    if (PyDataType_REFCHK(descr) || PyDataType_HASSUBARRAY(descr) ||
        PyDataType_ELSIZE(descr) <= 0) {
        PyErr_Format(PyExc_ValueError,
                     "no array of %R can lie in mapped memory", dtype);
        return NULL;
    }
    return (PyArray_Descr *)Py_NewRef(dtype);
}

/* All elements lie in the memory: 0, or -1 with ValueError. */
static int
check_bounds(const Layout *layout, npy_intp itemsize, const Memory *memory)
{
    npy_intp low, high, nbytes;
    if (layout_bounds(layout->ndim, layout->shape, layout->strides, itemsize,
                      &low, &high) < 0) {
        goto outside;
    }
    nbytes = layout_nbytes(layout->ndim, layout->shape, itemsize);
    if (nbytes < 0 || layout->offset > memory->length ||
        low < -layout->offset || high > memory->length - layout->offset) {
        goto outside;
    }
    return 0;

outside:
    PyErr_Format(PyExc_ValueError,
                 "the layout reaches outside its %zd bytes of memory",
                 (Py_ssize_t)memory->length);
    return -1;
}

/* Writes (offset, bytes, ...) into a private map; for offset None the bytes
 * are those of the elements, in C order. 0 or -1. */
static int
apply_patches(const Memory *memory, const Layout *layout, npy_intp itemsize,
              PyObject *patches)
{
    if (patches == Py_None) {
        return 0;
    }
    if (!PyTuple_CheckExact(patches) || !memory->patchable) {
        PyErr_SetString(PyExc_TypeError,
                        "patches must be a tuple, for a private mapping");
        return -1;
    }
    Py_ssize_t n = PyTuple_Size(patches);
    for (Py_ssize_t i = 0; i < n; i += 2) {
        PyObject *bytes = i + 1 < n ? PyTuple_GetItem(patches, i + 1) : NULL;
        if (bytes == NULL || !PyBytes_CheckExact(bytes)) {
            PyErr_SetString(PyExc_TypeError,
                            "patches must be pairs of offset and bytes");
            return -1;
        }
        Py_ssize_t size = PyBytes_Size(bytes);
        if (PyTuple_GetItem(patches, i) == Py_None) {
            if (size != layout_nbytes(layout->ndim, layout->shape, itemsize)) {
                PyErr_SetString(PyExc_ValueError,
                                "a patch must have the bytes of all elements");
                return -1;
            }
            layout_scatter(layout, itemsize, memory->start + layout->offset,
                           PyBytes_AsString(bytes));
            continue;
        }
        Py_ssize_t offset = PyLong_AsSsize_t(PyTuple_GetItem(patches, i));
        if (offset == -1 && PyErr_Occurred()) {
            return -1;
        }
        if (offset < 0 || size > memory->length ||
            offset > memory->length - size) {
            PyErr_SetString(PyExc_ValueError,
                            "a patch reaches outside the mapping");
            return -1;
        }
        memcpy(memory->start + offset, PyBytes_AsString(bytes), (size_t)size);
    }
    return 0;
}

/* What keeps the memory alive; new reference. */
static PyObject *
make_base(State *state, const Layout *layout, const Memory *memory)
{
    /* An owner that exports no buffer: NumPy never makes that writeable. */
    if (memory->backing != NULL && (!(layout->flags & LAYOUT_LOCKED) ||
                                    !PyObject_CheckBuffer(memory->owner))) {
        return Py_NewRef(memory->owner);
    }
    /* For bytearray the export also forbids to resize it. */
    PyObject *view = PyMemoryView_FromObject(memory->owner);
    if (view != NULL && layout->flags & LAYOUT_LOCKED) {
        core_set(&view,
                 PyObject_CallMethodObjArgs(view, state->str_toreadonly, NULL));
    }
    return view;
}

/* A stand-in when the backing is an error noted before (attach). */
static PyObject *
stand_in(State *state, const Layout *layout, PyObject *dtype)
{
    PyArray_Descr *descr = get_descr(state, layout, dtype);
    if (descr == NULL) {
        return NULL;
    }
    PyObject *array = standin_make(descr, layout);
    Py_DECREF((PyObject *)descr);
    return array;
}

/* `header` is NULL for an ndarray. */
static PyObject *
build(State *state, PyObject *header, const Layout *layout,
      const Memory *memory, PyArray_Descr *descr)
{
    PyTypeObject *type =
        header != NULL ? state->bare_memmap_type : &PyArray_Type;
    bool writeable = layout->flags & LAYOUT_WRITEABLE && memory->writable &&
                     !(layout->flags & LAYOUT_LOCKED);
    Py_INCREF((PyObject *)descr);
    PyObject *array =
        PyArray_NewFromDescr(type, descr, layout->ndim, layout->shape,
                             layout->strides, memory->start + layout->offset,
                             writeable ? NPY_ARRAY_WRITEABLE : 0, NULL);
    if (array == NULL) {
        return NULL;
    }
    PyObject *base = make_base(state, layout, memory);
    if (base == NULL ||
        PyArray_SetBaseObject((PyArrayObject *)array, base) < 0) {
        goto error;
    }
    if (layout->flags & LAYOUT_UNALIGNED) {
        PyArray_CLEARFLAGS((PyArrayObject *)array, NPY_ARRAY_ALIGNED);
    }
    if (header != NULL) {
        Backing *backing = memory->backing;
        bool has_mmap = layout->flags & LAYOUT_HAS_MMAP && backing != NULL;
        if (memmap_finish(state, array, header,
                          backing != NULL ? &backing->header : NULL,
                          has_mmap ? memory->owner : NULL) < 0) {
            goto error;
        }
    }
    return array;

error:
    Py_DECREF(array);
    return NULL;
}

static PyObject *
rebuild(State *state, PyObject *py_memory, PyObject *py_layout, PyObject *dtype,
        PyObject *patches)
{
    Layout layout;
    Memory memory;
    PyObject *owner = memmap_owner(py_memory), *array = NULL;

    if (layout_decode(py_layout, &layout) < 0) {
        return NULL;
    }
    if (PyExceptionInstance_Check(owner)) {
        return stand_in(state, &layout, dtype);
    }
    if (get_memory(state, owner, &memory) < 0) {
        return NULL;
    }
    PyArray_Descr *descr = get_descr(state, &layout, dtype);
    npy_intp itemsize = descr != NULL ? PyDataType_ELSIZE(descr) : 0;
    if (descr != NULL && check_bounds(&layout, itemsize, &memory) == 0 &&
        apply_patches(&memory, &layout, itemsize, patches) == 0) {
        array = build(state, py_memory == owner ? NULL : py_memory, &layout,
                      &memory, descr);
    }
    Py_XDECREF((PyObject *)descr);
    Py_XDECREF((PyObject *)memory.backing);
    return array;
}

PyObject *
rebuild_call(PyObject *module, PyObject *const *args, Py_ssize_t nargs)
{
    State *state = PyModule_GetState(module);
    PyObject *array = NULL;
    if (nargs < 2 || nargs > 4) {
        PyErr_Format(PyExc_TypeError, "rebuild takes 2 to 4 arguments, not %zd",
                     nargs);
    } else {
        array = rebuild(state, args[0], args[1], nargs > 2 ? args[2] : Py_None,
                        nargs > 3 ? args[3] : Py_None);
    }
    return array != NULL ? array : message_note(state);
}
