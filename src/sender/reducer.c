/* Owns the type of reducers: how one is made, called and pickled.
 *
 * The pickler calls Reducer.reduce, a builtin method that needs no Python
 * frame.
 */
#include "sender/reducer.h"

#include "sender/reduce.h"

static PyObject *
reducer_reduce(Reducer *self, PyObject *array)
{
    if (!PyArray_Check(array)) {
        PyErr_Format(PyExc_TypeError, "expected an array, not %R",
                     (PyObject *)Py_TYPE(array));
        return NULL;
    }
    return reduce_array(self, array);
}

static PyObject *
reducer_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {
        "stock",         "max_nbytes", "backward", "strict",   "counted",
        "write_through", "isolated",   "lasting",  "protocol", NULL};
    PyObject *stock = Py_None, *py_max_nbytes = Py_None;
    int backward = 0, strict = 0, counted = 1, write_through = 0;
    int isolated = 0, lasting = 0, protocol = 0;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|OOppppppi:Reducer", names,
                                     &stock, &py_max_nbytes, &backward, &strict,
                                     &counted, &write_through, &isolated,
                                     &lasting, &protocol)) {
        return NULL;
    }
    if (protocol < 0) {
        PyErr_SetString(PyExc_ValueError,
                        "protocol must be one of pickle's, or 0 for none");
        return NULL;
    }
    Py_ssize_t max_nbytes = -1;
    if (py_max_nbytes != Py_None) {
        max_nbytes = PyNumber_AsSsize_t(py_max_nbytes, NULL);
        if (max_nbytes == -1 && PyErr_Occurred()) {
            return NULL;
        }
    }
    Reducer *self = (Reducer *)PyType_GenericAlloc(type, 0);
    if (self == NULL) {
        return NULL;
    }
    self->state = PyType_GetModuleState(type);
    self->stock = Py_NewRef(stock);
    self->py_max_nbytes = Py_NewRef(py_max_nbytes);
    self->max_nbytes = (npy_intp)max_nbytes;
    self->direction = backward ? DIRECTION_BACKWARD : DIRECTION_FORWARD;
    self->strict = strict;
    self->write_through = write_through;
    self->counted = counted;
    self->isolated = isolated;
    self->lasting = lasting;
    self->protocol = protocol;
    return (PyObject *)self;
}

static PyObject *
reducer_pickle(Reducer *self, PyObject *Py_UNUSED(ignored))
{
    return Py_BuildValue(
        "O(OOOOOOOOi)", (PyObject *)Py_TYPE((PyObject *)self), self->stock,
        self->py_max_nbytes,
        self->direction == DIRECTION_BACKWARD ? Py_True : Py_False,
        self->strict ? Py_True : Py_False, self->counted ? Py_True : Py_False,
        self->write_through ? Py_True : Py_False,
        self->isolated ? Py_True : Py_False, self->lasting ? Py_True : Py_False,
        self->protocol);
}

static int
reducer_traverse(Reducer *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE((PyObject *)self));
    Py_VISIT(self->stock);
    Py_VISIT(self->py_max_nbytes);
    return 0;
}

static int
reducer_clear(Reducer *self)
{
    Py_CLEAR(self->stock);
    Py_CLEAR(self->py_max_nbytes);
    return 0;
}

static void
reducer_dealloc(Reducer *self)
{
    PyTypeObject *type = Py_TYPE((PyObject *)self);
    PyObject_GC_UnTrack(self);
    reducer_clear(self);
    PyObject_GC_Del(self);
    Py_DECREF(type);
}

PyDoc_STRVAR(reduce_doc,
             "reduce($self, array, /)\n--\n\n"
             "What a pickler writes for an array (see object.__reduce__).\n\n"
             "Parameters\n----------\n"
             "array : numpy.ndarray\n"
             "    Rebuilt as numpy.memmap if that is its exact type, else as\n"
             "    numpy.ndarray.\n\n"
             "Raises\n------\n"
             "BackingTruncatedError\n"
             "    The mapped file has become shorter than the map.\n"
             "StrictError\n"
             "    Mapped memory would be copied, and that was forbidden.");

static PyMethodDef reducer_methods[] = {
    {"reduce", (PyCFunction)reducer_reduce, METH_O, reduce_doc},
    {"__reduce__", (PyCFunction)reducer_pickle, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

PyDoc_STRVAR(
    reducer_doc,
    "Reducer(stock=None, max_nbytes=None, backward=False, strict=False, "
    "counted=True, write_through=False, isolated=False, lasting=False, "
    "protocol=0)\n--\n\n"
    "Reduces arrays for a pickler's dispatch table.\n\n"
    "Parameters\n----------\n"
    "stock : callable, optional\n"
    "    Reducer for arrays in ordinary memory that are too large.\n"
    "max_nbytes : int, optional\n"
    "    Size in bytes above which arrays are too large.\n"
    "backward : bool\n"
    "    For results: this process may be gone when they are read.\n"
    "strict : bool\n"
    "    Raise StrictError instead of copying mapped memory.\n"
    "counted : bool\n"
    "    Add what is reduced to the counters.\n"
    "write_through : bool\n"
    "    Writable maps are shared, whoever made them.\n"
    "isolated : bool\n"
    "    Each array is its reader's own, as a copy would be: what lies on a\n"
    "    writable map, an np.memmap's too, arrives on private pages that no\n"
    "    other array has. Memory made to be shared stays so; and so does all\n"
    "    with write_through.\n"
    "lasting : bool\n"
    "    The message may be read when the arrays are gone: a file without a\n"
    "    path goes by value. Memory made to be shared has none: who sends it\n"
    "    keeps it until it was read.\n"
    "protocol : int\n"
    "    The pickler's. What goes by value is NumPy's own reduction for it,\n"
    "    which needs no samemap where it is read. 0: any, and samemap's.");

static PyType_Slot reducer_slots[] = {
    {Py_tp_doc, (void *)reducer_doc},
    {Py_tp_new, reducer_new},
    {Py_tp_dealloc, reducer_dealloc},
    {Py_tp_traverse, reducer_traverse},
    {Py_tp_clear, reducer_clear},
    {Py_tp_methods, reducer_methods},
    {0, NULL},
};

PyType_Spec reducer_spec = {
    .name = "samemap._core.Reducer",
    .basicsize = sizeof(Reducer),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = reducer_slots,
};
