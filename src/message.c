/* Owns what belongs to a whole message: its number, what it keeps alive, and
 * the errors that travel with it or arise when it is read.
 *
 * An exception raised while a message is unpickled does not reach the caller:
 * multiprocessing would wait for ever, loky would report a broken pool. So an
 * Outgoing at the head of a message becomes an Incoming at its reader; errors
 * met after it are noted there, stand-ins fill the gaps, and whoever wrote the
 * Outgoing looks at the note when all is read. Both are found by thread: a
 * reducer isn't told which pickler called it.
 */
#include "message.h"

#include "os/clock.h"
#include "receiver/standin.h"

#include <string.h>

struct Outgoing {
    PyObject_HEAD
    State *state;
    Outgoing *next;
    unsigned long thread;
    uint64_t number;
    bool carries_errors; /* errors travel; else they are raised at once */
    PyObject *keeps;     /* list of what must outlive the message, or NULL */
};

struct Incoming {
    PyObject_HEAD
    State *state;
    Incoming *next;
    unsigned long thread;
    bool raises;     /* whoever reads it sees errors: none is noted */
    PyObject *error; /* the first one noted, or NULL */
};

static Outgoing *
current_outgoing(State *state)
{
    unsigned long thread = PyThread_get_thread_ident();
    Outgoing *message = state->outgoing;
    while (message != NULL && message->thread != thread) {
        message = message->next;
    }
    return message;
}

static Incoming *
current_incoming(State *state)
{
    unsigned long thread = PyThread_get_thread_ident();
    Incoming *message = state->incoming;
    while (message != NULL && message->thread != thread) {
        message = message->next;
    }
    return message;
}

uint64_t
message_number(State *state)
{
    Outgoing *message = current_outgoing(state);
    if (message != NULL) {
        return message->number;
    }
    /* The top bit keeps these apart from the counted numbers. */
    return (UINT64_C(1) << 63) | clock_milliseconds();
}

int
message_hold(State *state, PyObject *object)
{
    Outgoing *message = current_outgoing(state);
    if (message == NULL || message->keeps == NULL) {
        return 0;
    }
    return PyList_Append(message->keeps, object);
}

/* Clears the exception that is set and returns it, if it is an Exception
 * (not KeyboardInterrupt and the like); else NULL, and it stays set. */
static PyObject *
take_exception(void)
{
    PyObject *type, *value, *traceback;
    if (!PyErr_ExceptionMatches(PyExc_Exception)) {
        return NULL;
    }
    PyErr_Fetch(&type, &value, &traceback);
    PyErr_NormalizeException(&type, &value, &traceback);
    /* Without its traceback: that would keep frames, and maps, alive. */
    PyException_SetTraceback(value, Py_None);
    Py_XDECREF(type);
    Py_XDECREF(traceback);
    return value;
}

PyObject *
message_refuse(State *state, PyArrayObject *array)
{
    Outgoing *message = current_outgoing(state);
    if (message == NULL || !message->carries_errors) {
        return NULL;
    }
    PyObject *error = take_exception();
    if (error == NULL) {
        return NULL;
    }
    Layout layout = {.typenum = LAYOUT_NO_TYPENUM, .ndim = PyArray_NDIM(array)};
    memcpy(layout.shape, PyArray_DIMS(array),
           (size_t)layout.ndim * sizeof(*layout.shape));
    memcpy(layout.strides, PyArray_STRIDES(array),
           (size_t)layout.ndim * sizeof(*layout.strides));
    PyObject *py_layout = layout_encode(&layout);
    PyObject *reduction = NULL;
    if (py_layout != NULL) {
        reduction = Py_BuildValue("O(OON)", state->refused, error,
                                  (PyObject *)PyArray_DESCR(array), py_layout);
    }
    Py_DECREF(error);
    return reduction;
}

PyObject *
message_note(State *state)
{
    Incoming *message = current_incoming(state);
    if (message == NULL || message->raises) {
        return NULL;
    }
    PyObject *error = take_exception();
    if (error != NULL && message->error == NULL) {
        message->error = Py_NewRef(error);
    }
    return error;
}

PyObject *
message_note_call(PyObject *module, PyObject *error)
{
    if (!PyExceptionInstance_Check(error)) {
        PyErr_Format(PyExc_TypeError, "error must be an exception, not %R",
                     (PyObject *)Py_TYPE(error));
        return NULL;
    }
    PyErr_SetObject((PyObject *)Py_TYPE(error), error);
    return message_note(PyModule_GetState(module));
}

PyObject *
message_refused(PyObject *module, PyObject *args)
{
    PyObject *error, *py_layout;
    PyArray_Descr *descr;
    Layout layout;
    if (!PyArg_ParseTuple(args, "OO!O:refused", &error, &PyArrayDescr_Type,
                          &descr, &py_layout) ||
        layout_decode(py_layout, &layout) < 0) {
        return NULL;
    }
    PyObject *noted = message_note_call(module, error);
    if (noted == NULL) {
        return NULL;
    }
    Py_DECREF(noted);
    return standin_make(descr, &layout);
}

void
message_after_fork(State *state)
{
    unsigned long thread = PyThread_get_thread_ident();
    for (Outgoing **link = &state->outgoing; *link != NULL;) {
        if ((*link)->thread != thread) {
            *link = (*link)->next;
        } else {
            link = &(*link)->next;
        }
    }
    for (Incoming **link = &state->incoming; *link != NULL;) {
        if ((*link)->thread != thread) {
            *link = (*link)->next;
        } else {
            link = &(*link)->next;
        }
    }
}

/* ---- Outgoing ---------------------------------------------------------- */

static PyObject *
outgoing_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"carries", "held", NULL};
    int carries = 0;
    PyObject *held = Py_None;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|pO:Outgoing", names,
                                     &carries, &held)) {
        return NULL;
    }
    if (held != Py_None && !PyList_CheckExact(held)) {
        PyErr_SetString(PyExc_TypeError, "held must be a list or None");
        return NULL;
    }
    Outgoing *self = (Outgoing *)PyType_GenericAlloc(type, 0);
    if (self == NULL) {
        return NULL;
    }
    State *state = PyType_GetModuleState(type);
    self->state = state;
    self->thread = PyThread_get_thread_ident();
    self->number = ++state->message_count;
    self->carries_errors = carries;
    self->keeps = held == Py_None ? NULL : Py_NewRef(held);
    self->next = state->outgoing;
    state->outgoing = self;
    return (PyObject *)self;
}

static int
outgoing_traverse(Outgoing *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE((PyObject *)self));
    Py_VISIT(self->keeps);
    return 0;
}

static int
outgoing_clear(Outgoing *self)
{
    Py_CLEAR(self->keeps);
    return 0;
}

static void
outgoing_dealloc(Outgoing *self)
{
    PyTypeObject *type = Py_TYPE((PyObject *)self);
    PyObject_GC_UnTrack(self);
    for (Outgoing **link = &self->state->outgoing; *link != NULL;
         link = &(*link)->next) {
        if (*link == self) {
            *link = self->next;
            break;
        }
    }
    outgoing_clear(self);
    PyObject_GC_Del(self);
    Py_DECREF(type);
}

static PyObject *
outgoing_reduce(Outgoing *self, PyObject *Py_UNUSED(ignored))
{
    return Py_BuildValue("O()", self->state->incoming_function);
}

static PyMethodDef outgoing_methods[] = {
    {"__reduce__", (PyCFunction)outgoing_reduce, METH_NOARGS,
     "An Incoming, where the message is read."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot outgoing_slots[] = {
    {Py_tp_doc,
     "Outgoing(carries=False, held=None)\n--\n\n"
     "The message that this thread writes, for as long as the object lives."},
    {Py_tp_new, outgoing_new},
    {Py_tp_dealloc, outgoing_dealloc},
    {Py_tp_traverse, outgoing_traverse},
    {Py_tp_clear, outgoing_clear},
    {Py_tp_methods, outgoing_methods},
    {0, NULL},
};

PyType_Spec outgoing_spec = {
    .name = "samemap._core.Outgoing",
    .basicsize = sizeof(Outgoing),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = outgoing_slots,
};

/* ---- Incoming ---------------------------------------------------------- */

/* A function, not the type, is what messages name: cloudpickle takes 5 us for
 * every type in a message. */
PyObject *
message_incoming(PyObject *module, PyObject *args)
{
    State *state = PyModule_GetState(module);
    int raises = 0;
    if (!PyArg_ParseTuple(args, "|p:incoming", &raises)) {
        return NULL;
    }
    Incoming *self = (Incoming *)PyType_GenericAlloc(state->incoming_type, 0);
    if (self == NULL) {
        return NULL;
    }
    self->state = state;
    self->thread = PyThread_get_thread_ident();
    self->raises = raises;
    self->next = state->incoming;
    state->incoming = self;
    return (PyObject *)self;
}

/* Takes the message out of the thread's list: what is read from now on
 * belongs to another. */
static void
incoming_unlink(Incoming *self)
{
    for (Incoming **link = &self->state->incoming; *link != NULL;
         link = &(*link)->next) {
        if (*link == self) {
            *link = self->next;
            break;
        }
    }
}

static int
incoming_traverse(Incoming *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE((PyObject *)self));
    Py_VISIT(self->error);
    return 0;
}

static int
incoming_clear(Incoming *self)
{
    Py_CLEAR(self->error);
    return 0;
}

static void
incoming_dealloc(Incoming *self)
{
    PyTypeObject *type = Py_TYPE((PyObject *)self);
    PyObject_GC_UnTrack(self);
    incoming_unlink(self);
    incoming_clear(self);
    PyObject_GC_Del(self);
    Py_DECREF(type);
}

static PyObject *
incoming_close(Incoming *self, PyObject *Py_UNUSED(ignored))
{
    incoming_unlink(self);
    return Py_NewRef(self->error != NULL ? self->error : Py_None);
}

static PyMethodDef incoming_methods[] = {
    {"close", (PyCFunction)incoming_close, METH_NOARGS,
     "close($self, /)\n--\n\n"
     "End the message; return the first error met in reading it, or None."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot incoming_slots[] = {
    {Py_tp_doc, "The message that this thread reads, until it is closed."},
    {Py_tp_dealloc, incoming_dealloc},
    {Py_tp_traverse, incoming_traverse},
    {Py_tp_clear, incoming_clear},
    {Py_tp_methods, incoming_methods},
    {0, NULL},
};

PyType_Spec incoming_spec = {
    .name = "samemap._core.Incoming",
    .basicsize = sizeof(Incoming),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC |
             Py_TPFLAGS_IMMUTABLETYPE | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = incoming_slots,
};
