/* The one way to Python's and NumPy's headers: every file includes this first.
 *
 * One binary for every CPython from 3.11 on (limited API) and for NumPy 1.26
 * and 2.x (built on NumPy 2 headers, calling nothing newer than NumPy 1.25).
 * A free-threaded CPython has no limited API: the same calls are built for that
 * one version of it.
 */
#ifndef SAMEMAP_CORE_H
#define SAMEMAP_CORE_H

#include <pyconfig.h> /* for Py_GIL_DISABLED, before what it decides */
#ifndef Py_GIL_DISABLED
#define Py_LIMITED_API 0x030B0000
#endif
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#define NPY_TARGET_VERSION NPY_1_25_API_VERSION
#define NPY_NO_DEPRECATED_API NPY_2_0_API_VERSION
#define PY_ARRAY_UNIQUE_SYMBOL samemap_ARRAY_API
#ifndef SAMEMAP_IMPORTS_NUMPY
#define NO_IMPORT_ARRAY
#endif
#include <numpy/arrayobject.h>

#include <assert.h> /* for invariants; off but in the sanitizers' build */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Conveniences that the limited API of 3.11 leaves out. */

static inline PyObject *
core_call(PyObject *callable, PyObject *arg)
{
    return PyObject_CallFunctionObjArgs(callable, arg, NULL);
}

/* Room for one more of `size` bytes each in an array of which `count` items are
 * used: the array, which may be another now. NULL with MemoryError; then it is
 * as it was. */
static inline void *
core_grow(void *items, size_t count, size_t *room, size_t size)
{
    if (count < *room) {
        return items;
    }
    size_t larger = 2 * count + 8;
    void *grown = PyMem_Realloc(items, larger * size);
    if (grown == NULL) {
        PyErr_NoMemory();
        return NULL;
    }
    *room = larger;
    return grown;
}

/* *slot = value, stealing it; what was there is released after. */
static inline void
core_set(PyObject **slot, PyObject *value)
{
    PyObject *before = *slot;
    *slot = value;
    Py_XDECREF(before);
}

#endif
