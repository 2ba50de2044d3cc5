/* Owns the walk from an array to the object that holds its memory.
 *
 * References stay borrowed throughout: every object of the chain is kept
 * alive by the one before it, and the array by the caller. The attributes read
 * (`memoryview.obj`, NumPy's `DummyArray.base`) return objects that the chain
 * holds anyway.
 */
#include "sender/owner.h"

#include "wire/layout.h"

/* Chains are as long as the user's nesting of buffers; a cycle can't be built
 * with NumPy, but a foreign `base` may do anything. */
#define MAX_CHAIN 10000

/* Borrowed reference to an attribute that `object` itself keeps, or NULL. */
static PyObject *
held_attribute(PyObject *object, PyObject *name)
{
    PyObject *value = PyObject_GetAttr(object, name);
    Py_XDECREF(value);
    return value;
}

/* 1 when the view is read-only, 0 or -1. */
static int
is_readonly(State *state, PyObject *view)
{
    PyObject *readonly = PyObject_GetAttr(view, state->str_readonly);
    if (readonly == NULL) {
        return -1;
    }
    int result = PyObject_IsTrue(readonly);
    Py_DECREF(readonly);
    return result;
}

/* As NumPy's and CPython's checks, which walk through the bases of a type:
 * those that nearly all chains are made of are known by identity. */
static bool
is_array(const State *state, PyObject *object)
{
    PyTypeObject *type = Py_TYPE(object);
    return type == &PyArray_Type || type == state->memmap_type ||
           (type != state->mmap_type && PyArray_Check(object));
}

static bool
is_memmap(const State *state, PyObject *array)
{
    PyTypeObject *type = Py_TYPE(array);
    return type == state->memmap_type ||
           (type != &PyArray_Type &&
            PyObject_TypeCheck(array, state->memmap_type));
}

int
owner_find(State *state, PyArrayObject *array, Owner *owner)
{
    PyObject *current = (PyObject *)array;
    owner->kind = OWNER_OTHER;
    owner->object = owner->last_array = current;
    owner->memmap = NULL;
    owner->locked = false;

    for (int step = 0; step < MAX_CHAIN; step++) {
        PyObject *next;
        if (is_array(state, current)) {
            owner->object = owner->last_array = current;
            if (is_memmap(state, current)) {
                owner->memmap = current;
            }
            /* Also with a base: that of a copy to be written back to. */
            if (PyArray_CHKFLAGS((PyArrayObject *)current, NPY_ARRAY_OWNDATA)) {
                owner->kind = OWNER_MEMORY;
                return 0;
            }
            next = PyArray_BASE((PyArrayObject *)current);
            if (next == NULL) {
                return 0;
            }
        } else if (PyObject_TypeCheck(current, state->mmap_type)) {
            owner->kind = OWNER_MMAP;
            owner->object = current;
            return 0;
        } else if (PyBytes_Check(current) || PyByteArray_Check(current)) {
            owner->kind = OWNER_MEMORY;
            return 0;
        } else if (PyMemoryView_Check(current)) {
            int readonly = is_readonly(state, current);
            if (readonly < 0) {
                return -1;
            }
            owner->locked |= readonly;
            next = held_attribute(current, state->str_obj);
            if (next == NULL) {
                return -1;
            }
            if (next == Py_None) {
                return 0;
            }
        } else if (Py_TYPE(current) == state->dummy_array_type) {
            next = held_attribute(current, state->str_base);
            if (next == NULL) {
                return -1;
            }
            if (next == Py_None) {
                return 0;
            }
        } else {
            owner->object = current;
            return 0;
        }
        current = next;
    }
    PyErr_SetString(PyExc_RecursionError,
                    "the chain of bases of the array does not end");
    return -1;
}

bool
owner_get_memory(const Owner *owner, char **low, char **high)
{
    PyArrayObject *array = (PyArrayObject *)owner->last_array;
    npy_intp itemsize = PyDataType_ELSIZE(PyArray_DESCR(array)), first, end;
    npy_intp nbytes =
        layout_nbytes(PyArray_NDIM(array), PyArray_DIMS(array), itemsize);
    if (layout_bounds(PyArray_NDIM(array), PyArray_DIMS(array),
                      PyArray_STRIDES(array), itemsize, &first, &end) < 0 ||
        end - first > nbytes) {
        return false;
    }
    *low = PyArray_BYTES(array) + first;
    *high = PyArray_BYTES(array) + end;
    return true;
}

/* What as_strided puts between its result and the array has no public name:
 * take its type from a result. */
int
owner_init(State *state)
{
    int result = -1;
    npy_intp one = 1;
    PyObject *as_strided =
        state_import("numpy.lib.stride_tricks", "as_strided");
    PyObject *array = PyArray_ZEROS(1, &one, NPY_INT8, 0);
    PyObject *view = NULL, *base = NULL;
    if (as_strided != NULL && array != NULL) {
        view = core_call(as_strided, array);
    }
    if (view != NULL) {
        base = PyObject_GetAttrString(view, "base");
    }
    if (base != NULL) {
        state->dummy_array_type =
            (PyTypeObject *)Py_NewRef((PyObject *)Py_TYPE(base));
        result = 0;
    }
    Py_XDECREF(base);
    Py_XDECREF(view);
    Py_XDECREF(array);
    Py_XDECREF(as_strided);
    return result;
}
