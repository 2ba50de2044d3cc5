/* Owns what belongs to a whole message that is being written: its number, what
 * it keeps alive, and how far its pickler has come. */
#include "sender/outgoing.h"

#include "os/clock.h"
#include "sender/receipts.h"
#include "sender/results.h"
#include "sender/scan.h"
#include "sender/siblings.h"

static Outgoing *
of_link(ThreadLink *link)
{
    return link != NULL
               ? (Outgoing *)(void *)((char *)link - offsetof(Outgoing, link))
               : NULL;
}

Outgoing *
outgoing_current(State *state)
{
    return of_link(threadlist_current(state->outgoing));
}

uint64_t
outgoing_number(const Outgoing *message)
{
    return message != NULL ? message->number
                           : MESSAGE_IMPLICIT | clock_milliseconds();
}

uint64_t
message_number(State *state)
{
    return outgoing_number(outgoing_current(state));
}

int
outgoing_hold(State *state, PyObject *object)
{
    Outgoing *message = outgoing_current(state);
    if (message == NULL || message->held == NULL) {
        return 0;
    }
    return PyList_Append(message->held, object);
}

PyObject *
outgoing_is_own(PyObject *module, PyObject *array)
{
    Outgoing *message = outgoing_current(PyModule_GetState(module));
    long own = 0;
    if (message != NULL && PyArray_Check(array) &&
        scan_meet(message, array) < 0) {
        return NULL;
    }
    if (message != NULL && message->phase == PHASE_TASKS) {
        own = scan_is_shared(message, array) ? 2 : 1;
    }
    return PyLong_FromLong(own);
}

PyObject *
outgoing_new_number(PyObject *module, PyObject *Py_UNUSED(ignored))
{
    State *state = PyModule_GetState(module);
    return PyLong_FromUnsignedLongLong(++state->message_count);
}

PyObject *
outgoing_count_pending(PyObject *module, PyObject *Py_UNUSED(ignored))
{
    Outgoing *message = outgoing_current(PyModule_GetState(module));
    if (message == NULL) {
        Py_RETURN_NONE;
    }
    message->pending++;
    return Py_NewRef(message->held != NULL ? message->held : Py_None);
}

static PyObject *
outgoing_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"held",    "export_min", "export_folder",
                            "readers", "since",      "spill_folder",
                            NULL};
    PyObject *held = Py_None, *folder = Py_None, *spill = Py_None;
    Py_ssize_t export_min = -1, readers = 1;
    unsigned long long since = 0;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|OnOnKO:Outgoing", names,
                                     &held, &export_min, &folder, &readers,
                                     &since, &spill)) {
        return NULL;
    }
    if ((folder != Py_None && !PyBytes_CheckExact(folder)) ||
        (spill != Py_None && !PyBytes_CheckExact(spill))) {
        PyErr_SetString(PyExc_TypeError, "a folder must be bytes or None");
        return NULL;
    }
    if (held != Py_None && !PyList_CheckExact(held)) {
        PyErr_SetString(PyExc_TypeError, "held must be a list or None");
        return NULL;
    }
    if (readers < 1) {
        PyErr_SetString(PyExc_ValueError, "readers must be positive");
        return NULL;
    }
    Outgoing *self = (Outgoing *)PyType_GenericAlloc(type, 0);
    if (self == NULL) {
        return NULL;
    }
    State *state = PyType_GetModuleState(type);
    self->state = state;
    self->number = self->first_number = ++state->message_count;
    const Outgoing *outer = outgoing_current(state);
    self->since = since == 0 && outer != NULL ? outer->since : (uint64_t)since;
    self->held = held == Py_None ? NULL : Py_NewRef(held);
    self->export_min = self->held != NULL ? (npy_intp)export_min : -1;
    self->readers = (npy_intp)readers;
    self->export_folder = folder == Py_None ? NULL : Py_NewRef(folder);
    self->spill_folder = spill == Py_None ? NULL : Py_NewRef(spill);
    threadlist_push(&state->outgoing, &self->link);
    return (PyObject *)self;
}

static int
outgoing_traverse(Outgoing *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE((PyObject *)self));
    Py_VISIT(self->held);
    Py_VISIT(self->kept);
    return 0;
}

static int
outgoing_clear(Outgoing *self)
{
    Py_CLEAR(self->held);
    Py_CLEAR(self->export_folder);
    Py_CLEAR(self->spill_folder);
    results_clear(self);
    return 0;
}

static void
outgoing_dealloc(Outgoing *self)
{
    PyTypeObject *type = Py_TYPE((PyObject *)self);
    PyObject_GC_UnTrack(self);
    threadlist_remove(&self->state->outgoing, &self->link);
    idmap_clear(&self->arguments);
    siblings_clear(self);
    outgoing_clear(self);
    PyObject_GC_Del(self);
    Py_DECREF(type);
}

static PyObject *
outgoing_objects(Outgoing *self, PyObject *args)
{
    PyObject *tasks, *types;
    if (!PyArg_ParseTuple(args, "O!O:objects", &PyList_Type, &tasks, &types)) {
        return NULL;
    }
    if (self->arguments.count > 0) {
        PyErr_SetString(PyExc_RuntimeError,
                        "a message holds one batch of tasks");
        return NULL;
    }
    PyObject *result = scan_tasks(self, tasks, types);
    if (result != NULL) {
        self->phase = PHASE_OBJECTS;
    }
    return result;
}

static PyObject *
outgoing_enter(Outgoing *self, PyObject *py_phase)
{
    long phase = PyLong_AsLong(py_phase);
    if (phase == -1 && PyErr_Occurred()) {
        return NULL;
    }
    if (phase < PHASE_OBJECTS || phase > PHASE_PART) {
        PyErr_Format(PyExc_ValueError, "no phase of a batch: %R", py_phase);
        return NULL;
    }
    /* A part is read alone: it can't count on what is in another, nor what
     * comes after it on what is in a part, nor any of them on a first attempt.
     */
    if (phase == PHASE_PART || self->phase == PHASE_PART ||
        phase == PHASE_OBJECTS) {
        self->number = ++self->state->message_count;
    }
    self->phase = (Phase)phase;
    Py_RETURN_NONE;
}

static PyObject *
outgoing_is_entangled(Outgoing *self, PyObject *Py_UNUSED(ignored))
{
    return PyBool_FromLong(self->entangled);
}

static PyObject *
outgoing_is_shared(Outgoing *self, PyObject *object)
{
    return PyBool_FromLong(scan_is_shared(self, object));
}

static PyObject *
outgoing_is_argument(Outgoing *self, PyObject *object)
{
    return PyBool_FromLong(scan_is_argument(self, object));
}

static PyObject *
outgoing_results(Outgoing *self, PyObject *results)
{
    if (self->kept != NULL || self->phase != PHASE_WHOLE) {
        PyErr_SetString(PyExc_RuntimeError,
                        "a message holds one batch of results");
        return NULL;
    }
    if (results_collect(self, results) < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyObject *
outgoing_receipts(Outgoing *self, PyObject *Py_UNUSED(ignored))
{
    return receipts_of_message(self->state, self->number);
}

static PyObject *
outgoing_discard(Outgoing *self, PyObject *Py_UNUSED(ignored))
{
    receipts_discard(self->state, self->number);
    Py_RETURN_NONE;
}

static PyObject *
outgoing_close(Outgoing *self, PyObject *Py_UNUSED(ignored))
{
    threadlist_remove(&self->state->outgoing, &self->link);
    idmap_clear(&self->arguments);
    siblings_clear(self);
    results_clear(self);
    return PyLong_FromUnsignedLongLong(self->pending);
}

static PyMethodDef outgoing_methods[] = {
    {"objects", (PyCFunction)outgoing_objects, METH_VARARGS,
     "objects($self, tasks, types, /)\n--\n\n"
     "Begin a batch: what is pickled now are the objects that its tasks "
     "hold.\n\n"
     "Parameters\n----------\n"
     "tasks : list of (function, args, kwargs)\n"
     "types : container of type\n"
     "    Array types that the pickler has reducers for.\n\n"
     "Returns\n-------\n"
     "tuple of list\n"
     "    The objects of several tasks, those of one task, in the order to "
     "pickle\n"
     "    them, and the types of other arrays."},
    {"enter", (PyCFunction)outgoing_enter, METH_O,
     "enter($self, phase, /)\n--\n\n"
     "Go on: 1, 2 the objects of several tasks and of one; 3 the tasks; 4 a "
     "part."},
    {"is_entangled", (PyCFunction)outgoing_is_entangled, METH_NOARGS,
     "is_entangled($self, /)\n--\n\n"
     "True when an object of one task has led to an array that is an "
     "argument."},
    {"is_shared", (PyCFunction)outgoing_is_shared, METH_O,
     "is_shared($self, object, /)\n--\n\n"
     "True for what several tasks get to."},
    {"is_argument", (PyCFunction)outgoing_is_argument, METH_O,
     "is_argument($self, object, /)\n--\n\n"
     "True for what some task gets to."},
    {"results", (PyCFunction)outgoing_results, METH_O,
     "results($self, results, /)\n--\n\n"
     "Begin results: large arrays among them go by memory files."},
    {"receipts", (PyCFunction)outgoing_receipts, METH_NOARGS,
     "receipts($self, /)\n--\n\n"
     "What the reader is to acknowledge: arguments of `acknowledge`, for each "
     "file."},
    {"discard", (PyCFunction)outgoing_discard, METH_NOARGS,
     "discard($self, /)\n--\n\n"
     "The message isn't sent: close its memory files."},
    {"close", (PyCFunction)outgoing_close, METH_NOARGS,
     "close($self, /)\n--\n\n"
     "End the message; return how many arrays each task makes its own."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot outgoing_slots[] = {
    {Py_tp_doc,
     "Outgoing(held=None, export_min=-1, export_folder=None, readers=1, "
     "since=0,\n"
     "         spill_folder=None)"
     "\n--\n\n"
     "The message that this thread writes, until it is closed.\n\n"
     "What must outlive the message is appended to the list `held`. With it,\n"
     "arrays of more than `export_min` bytes go by memory files, unless that "
     "is\n"
     "negative; they are made in the folder of that name (bytes). They are\n"
     "read-only where so many readers could not all have a copy. `since`: a\n"
     "number of before the arrays were given to be sent, or 0; a message in a\n"
     "message has that of the outer one. `spill_folder`: where files go for\n"
     "which there is too little memory, or None."},
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
