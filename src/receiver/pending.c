/* Owns what stands in for an array until its task starts. */
#include "receiver/pending.h"

#include "receiver/source.h"

static Pending *
allocate(State *state)
{
    Pending *self = (Pending *)PyType_GenericAlloc(state->pending_type, 0);
    if (self != NULL) {
        self->state = state;
    }
    return self;
}

/* The memory is that of one task at a time: 0, or -1 with an exception. */
static int
check_source(State *state, const View *view)
{
    bool private = PyBytes_CheckExact(view->source);
    if (Py_TYPE(view->source) == state->source_type) {
        private = view->layout.flags & LAYOUT_PRIVATE;
    }
    if (!private) {
        PyErr_SetString(PyExc_TypeError,
                        "a task's own array needs bytes or a private mapping");
        return -1;
    }
    return 0;
}

PyObject *
pending_view(PyObject *module, PyObject *const *args, Py_ssize_t nargs)
{
    State *state = PyModule_GetState(module);
    PyObject *finish = nargs > 4 ? args[4] : Py_None;
    View view;
    if (nargs > 5 || (finish != Py_None && !(PyTuple_CheckExact(finish) &&
                                             PyTuple_Size(finish) == 2))) {
        PyErr_SetString(PyExc_TypeError,
                        "pending takes at most 5 arguments, the last a pair");
        return NULL;
    }
    if (view_parse(state, args, nargs < 4 ? nargs : 4, &view) < 0 ||
        check_source(state, &view) < 0) {
        return NULL;
    }
    Pending *self = allocate(state);
    if (self == NULL) {
        return NULL;
    }
    view_hold(&view);
    self->view = view;
    self->finish = finish != Py_None ? Py_NewRef(finish) : NULL;
    return (PyObject *)self;
}

PyObject *
pending_call(PyObject *module, PyObject *args)
{
    Py_ssize_t n = PyTuple_Size(args);
    if (n < 1 || !PyCallable_Check(PyTuple_GetItem(args, 0))) {
        PyErr_SetString(PyExc_TypeError, "pending_call takes a function first");
        return NULL;
    }
    PyObject *rest = PyTuple_GetSlice(args, 1, n);
    Pending *self = rest != NULL ? allocate(PyModule_GetState(module)) : NULL;
    if (self == NULL) {
        Py_XDECREF(rest);
        return NULL;
    }
    self->call = Py_NewRef(PyTuple_GetItem(args, 0));
    self->args = rest;
    return (PyObject *)self;
}

static int
pending_traverse(Pending *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE((PyObject *)self));
    Py_VISIT(self->view.memmap);
    Py_VISIT(self->finish);
    Py_VISIT(self->call);
    Py_VISIT(self->args);
    return 0;
}

static int
pending_clear(Pending *self)
{
    view_clear(&self->view);
    Py_CLEAR(self->finish);
    Py_CLEAR(self->call);
    Py_CLEAR(self->args);
    return 0;
}

static void
pending_dealloc(Pending *self)
{
    PyTypeObject *type = Py_TYPE((PyObject *)self);
    PyObject_GC_UnTrack(self);
    pending_clear(self);
    PyObject_GC_Del(self);
    Py_DECREF(type);
}

static PyType_Slot pending_slots[] = {
    {Py_tp_doc,
     "Stands for an array that a task makes its own when it starts."},
    {Py_tp_dealloc, pending_dealloc},
    {Py_tp_traverse, pending_traverse},
    {Py_tp_clear, pending_clear},
    {0, NULL},
};

PyType_Spec pending_spec = {
    .name = "samemap._core.Pending",
    .basicsize = sizeof(Pending),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC |
             Py_TPFLAGS_IMMUTABLETYPE | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = pending_slots,
};
