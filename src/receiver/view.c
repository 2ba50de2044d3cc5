/* Owns the building of arrays from memory and a layout.
 *
 * PyArray_NewFromDescr checks nothing: every number of the message has been
 * checked against the memory before it is called.
 */
#include "receiver/view.h"

#include "receiver/source.h"
#include "wire/memmap.h"

#include <string.h>

/* Borrowed: the element type, which must not make NumPy follow pointers in
 * the memory or take other lengths than the layout's. */
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
        return (PyArray_Descr *)builtin;
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
    return descr;
}

/* All elements lie in memory of `length` bytes; sets which of them they span.
 * 0, or -1 with ValueError. */
static int
set_bounds(View *view, npy_intp length)
{
    const Layout *layout = &view->layout;
    npy_intp itemsize = PyDataType_ELSIZE(view->descr);
    npy_intp low, high;
    if (layout_bounds(layout->ndim, layout->shape, layout->strides, itemsize,
                      &low, &high) < 0 ||
        layout_nbytes(layout->ndim, layout->shape, itemsize) < 0 ||
        layout->offset > length || low < -layout->offset ||
        high > length - layout->offset) {
        PyErr_Format(PyExc_ValueError,
                     "the layout reaches outside its %zd bytes of memory",
                     (Py_ssize_t)length);
        return -1;
    }
    view->low = layout->offset + low;
    view->high = layout->offset + high;
    return 0;
}

static int
set_elements(View *view, PyObject *elements)
{
    if (elements == NULL) {
        return 0;
    }
    if (PyBytes_Size(elements) !=
        layout_nbytes(view->layout.ndim, view->layout.shape,
                      PyDataType_ELSIZE(view->descr))) {
        PyErr_SetString(PyExc_ValueError,
                        "a patch must have the bytes of all elements");
        return -1;
    }
    view->elements = elements;
    return 0;
}

/* How many bytes the message says that there are; takes its patches. */
static int
parse_source(State *state, View *view, PyObject *patches, npy_intp *length,
             PyObject **elements)
{
    *elements = NULL;
    if (Py_TYPE(view->source) == state->source_type) {
        Source *source = (Source *)view->source;
        *length = source->reference.length;
        if (patches == Py_None) {
            return 0;
        }
        if (!(view->layout.flags & LAYOUT_PRIVATE)) {
            PyErr_SetString(PyExc_TypeError,
                            "patches are for private mappings");
            return -1;
        }
        return patches_decode(patches, *length, &source->patches, elements);
    }
    if (PyBytes_CheckExact(view->source)) {
        *length = PyBytes_Size(view->source);
    } else if (PyByteArray_CheckExact(view->source)) {
        *length = PyByteArray_Size(view->source);
    } else {
        PyErr_Format(PyExc_TypeError, "an array can't be rebuilt on %R",
                     (PyObject *)Py_TYPE(view->source));
        return -1;
    }
    if (patches != Py_None) {
        PyErr_SetString(PyExc_TypeError, "patches are for private mappings");
        return -1;
    }
    return 0;
}

int
view_parse(State *state, PyObject *const *args, Py_ssize_t nargs, View *view)
{
    PyObject *dtype = nargs > 2 ? args[2] : Py_None;
    PyObject *patches = nargs > 3 ? args[3] : Py_None;
    PyObject *source, *elements;
    npy_intp length;

    view->memmap = view->elements = NULL;
    if (nargs < 2 || nargs > 4) {
        PyErr_Format(PyExc_TypeError, "a view has 2 to 4 parts, not %zd",
                     nargs);
        return -1;
    }
    source = args[0];
    if (PyTuple_CheckExact(source) && PyTuple_Size(source) == 4) {
        view->memmap = source;
        source = PyTuple_GetItem(source, 0);
    }
    view->source = source;
    if (layout_decode(args[1], &view->layout) < 0) {
        return -1;
    }
    if (view->layout.flags & LAYOUT_MEMMAP && view->memmap == NULL) {
        PyErr_SetString(PyExc_ValueError, "an np.memmap needs its attributes");
        return -1;
    }
    view->descr = get_descr(state, &view->layout, dtype);
    if (view->descr == NULL ||
        parse_source(state, view, patches, &length, &elements) < 0) {
        return -1;
    }
    return set_bounds(view, length) == 0 ? set_elements(view, elements) : -1;
}

void
view_hold(View *view)
{
    Py_XINCREF(view->memmap);
    Py_INCREF(view->source);
    Py_INCREF((PyObject *)view->descr);
    Py_XINCREF(view->elements);
}

void
view_clear(View *view)
{
    Py_CLEAR(view->memmap);
    Py_CLEAR(view->source);
    Py_CLEAR(view->descr);
    Py_CLEAR(view->elements);
}

/* New reference: the np.memmap that is the base of all views with this tuple,
 * which lives as long as one of them, or as the memory of the message. */
static PyObject *
get_root(State *state, const View *view, Memory *memory)
{
    if (memory->root == NULL || memory->root_tuple != view->memmap) {
        PyObject *root =
            memmap_root(state, view->memmap, &memory->backing->mapping,
                        &memory->backing->header, memory->owner);
        if (root == NULL) {
            return NULL;
        }
        core_set(&memory->root, root);
        memory->root_tuple = view->memmap;
    }
    return Py_NewRef(memory->root);
}

/* New reference: what keeps the memory alive. */
static PyObject *
make_base(State *state, const View *view, Memory *memory)
{
    bool locked = view->layout.flags & LAYOUT_LOCKED;
    if (memory->backing != NULL && !locked) {
        return view->memmap != NULL ? get_root(state, view, memory)
                                    : Py_NewRef(memory->owner);
    }
    /* For bytearray the export also forbids to resize it. */
    PyObject *base = PyMemoryView_FromObject(memory->owner);
    if (base != NULL && locked) {
        core_set(&base,
                 PyObject_CallMethodObjArgs(base, state->str_toreadonly, NULL));
    }
    return base;
}

PyObject *
view_build(State *state, const View *view, Memory *memory)
{
    const Layout *layout = &view->layout;
    bool is_memmap = layout->flags & LAYOUT_MEMMAP;
    bool writeable = layout->flags & LAYOUT_WRITEABLE && memory->writable &&
                     !(layout->flags & LAYOUT_LOCKED);
    char *data = memory->data;
    if (view->low >= memory->low && view->high <= memory->high) {
        data = memory_at(memory, layout->offset);
    } else if (view->low < view->high) {
        PyErr_SetString(PyExc_ValueError, "the memory is not that of the view");
        return NULL;
    }
    if (view->elements != NULL) {
        layout_scatter(layout, PyDataType_ELSIZE(view->descr), data,
                       PyBytes_AsString(view->elements));
    }
    Py_INCREF((PyObject *)view->descr);
    PyObject *array = PyArray_NewFromDescr(
        is_memmap ? state->bare_memmap_type : &PyArray_Type, view->descr,
        layout->ndim, layout->shape, layout->strides, data,
        writeable ? NPY_ARRAY_WRITEABLE : 0, NULL);
    if (array == NULL) {
        return NULL;
    }
    PyObject *base = make_base(state, view, memory);
    if (base == NULL ||
        PyArray_SetBaseObject((PyArrayObject *)array, base) < 0) {
        goto error;
    }
    if (layout->flags & LAYOUT_UNALIGNED) {
        PyArray_CLEARFLAGS((PyArrayObject *)array, NPY_ARRAY_ALIGNED);
    }
    if (is_memmap) {
        bool has_map =
            layout->flags & LAYOUT_HAS_MMAP && memory->backing != NULL;
        if (memmap_finish(
                state, array, layout->flags & LAYOUT_BARE ? NULL : view->memmap,
                memory->backing != NULL ? &memory->backing->header : NULL,
                has_map ? memory->owner : NULL) < 0) {
            goto error;
        }
    }
    return array;

error:
    Py_DECREF(array);
    return NULL;
}
