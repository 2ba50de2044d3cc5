/* Owns what fills the gap of an array that can't be had, until somebody raises
 * the error that was noted: nobody is meant to use it.
 */
#include "receiver/standin.h"

#include <string.h>

/* Up to this many bytes a stand-in has memory, which the system gives when it
 * is touched. */
#define STAND_IN_MAX (1 << 30)

/* One item of zeros, shown everywhere. */
static PyObject *
repeat_zero(PyArray_Descr *descr, const Layout *layout)
{
    npy_intp strides[LAYOUT_MAX_DIMS] = {0};
    npy_intp itemsize = PyDataType_ELSIZE(descr);
    PyObject *zero = PyBytes_FromStringAndSize(NULL, itemsize);
    if (zero == NULL) {
        return NULL;
    }
    char *data = PyBytes_AsString(zero);
    memset(data, 0, (size_t)itemsize);
    Py_INCREF((PyObject *)descr);
    PyObject *array =
        PyArray_NewFromDescr(&PyArray_Type, descr, layout->ndim, layout->shape,
                             strides, data, 0, NULL);
    if (array == NULL) {
        Py_DECREF(zero);
        return NULL;
    }
    if (PyArray_SetBaseObject((PyArrayObject *)array, zero) < 0) {
        Py_DECREF(array);
        return NULL;
    }
    return array;
}

static bool
is_fortran(const Layout *layout, npy_intp itemsize)
{
    npy_intp stride = itemsize;
    for (int i = 0; i < layout->ndim; i++) {
        if (layout->shape[i] != 1 && layout->strides[i] != stride) {
            return false;
        }
        stride *= layout->shape[i];
    }
    return layout->ndim > 1;
}

PyObject *
standin_make(PyArray_Descr *descr, const Layout *layout)
{
    npy_intp itemsize = PyDataType_ELSIZE(descr);
    npy_intp nbytes = layout_nbytes(layout->ndim, layout->shape, itemsize);
    if (nbytes >= 0 && nbytes <= STAND_IN_MAX) {
        Py_INCREF((PyObject *)descr);
        PyObject *array =
            PyArray_Zeros(layout->ndim, layout->shape, descr,
                          nbytes > 0 && is_fortran(layout, itemsize));
        if (array != NULL) {
            return array;
        }
        PyErr_Clear();
    }
    return repeat_zero(descr, layout);
}
