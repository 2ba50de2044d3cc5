/* The module: its functions, what it takes from elsewhere, and its state. */
#define SAMEMAP_IMPORTS_NUMPY
#include "core.h"

#include "backing.h"
#include "errors.h"
#include "fork.h"
#include "os/system.h"
#include "probe.h"
#include "receiver/attach.h"
#include "receiver/lost.h"
#include "receiver/pending.h"
#include "receiver/rebuild.h"
#include "receiver/source.h"
#include "receiver/task.h"
#include "registry.h"
#include "sender/describe.h"
#include "sender/export.h"
#include "sender/image.h"
#include "sender/images.h"
#include "sender/outgoing.h"
#include "sender/owner.h"
#include "sender/receipts.h"
#include "sender/reducer.h"
#include "sender/scan.h"
#include "sender/shared.h"
#include "state.h"
#include "wire/memmap.h"
#include "wire/reference.h"

/* The index of `py_name` in `names`, which ends with NULL; -1 with ValueError:
 * `expected` names them for people. */
static int
find_name(PyObject *py_name, const char *const *names, const char *expected)
{
    for (int i = 0; PyUnicode_Check(py_name) && names[i] != NULL; i++) {
        if (PyUnicode_CompareWithASCIIString(py_name, names[i]) == 0) {
            return i;
        }
    }
    PyErr_Format(PyExc_ValueError, "expected %s, not %R", expected, py_name);
    return -1;
}

static PyObject *
set_map_table(PyObject *module, PyObject *name)
{
    static const char *const names[] = {"auto", "ioctl", "text", "none", NULL};
    State *state = PyModule_GetState(module);
    int source = find_name(name, names, "'auto', 'ioctl', 'text' or 'none'");
    if (source < 0) {
        return NULL;
    }
    maptable_close(&state->maptable);
    state->maptable = (MapTable)MAPTABLE_INIT;
    state->maptable.source = (MapTableSource)source;
    Py_RETURN_NONE;
}

static PyObject *
set_pagemap(PyObject *module, PyObject *name)
{
    static const char *const names[] = {"auto", "scan", "entries", NULL};
    State *state = PyModule_GetState(module);
    int source = find_name(name, names, "'auto', 'scan' or 'entries'");
    if (source < 0) {
        return NULL;
    }
    state->pagemap = (PagemapSource)source;
    Py_RETURN_NONE;
}

static PyObject *
known(PyObject *module, PyObject *Py_UNUSED(ignored))
{
    return PyLong_FromSize_t(registry_count_all(PyModule_GetState(module)));
}

PyDoc_STRVAR(
    attach_doc,
    "attach(version, token, path, identity, offset, length, access, pid, "
    "/)\n--\n\n"
    "The mapping that a message names, as a Source: nothing is opened yet.");
PyDoc_STRVAR(rebuild_doc,
             "rebuild(memory, layout, dtype=None, patches=None, /)\n--\n\n"
             "The array that a message describes.");
PyDoc_STRVAR(
    pending_doc,
    "pending(memory, layout, dtype=None, patches=None, finish=None, "
    "/)\n--\n\n"
    "What stands for such an array until a task takes it; if `finish` is\n"
    "(function, object), the task gets function(array, object).");
PyDoc_STRVAR(
    pending_call_doc,
    "pending_call(function, /, *args)\n--\n\n"
    "The same for an object that each task gets from function(*args).");
PyDoc_STRVAR(run_doc,
             "run(function, args, kwargs, /)\n--\n\n"
             "Call a task with arrays of its own for what is pending.");
PyDoc_STRVAR(
    is_own_doc,
    "is_own(array, /)\n--\n\n"
    "How the message being written has the array: 0 as it is, 1 for one\n"
    "task, 2 as an argument of several tasks.");
PyDoc_STRVAR(
    count_pending_doc,
    "count_pending()\n--\n\n"
    "Count one more array that each task makes its own in the message being\n"
    "written; return the list of what that holds, or None.");
PyDoc_STRVAR(new_number_doc, "new_number()\n--\n\n"
                             "A number above those of all messages until now.");
PyDoc_STRVAR(
    is_mapped_doc,
    "is_mapped(array, /)\n--\n\n"
    "True if the memory of the array belongs to a mapping, or will in\n"
    "the reader of the message that this thread writes.");
PyDoc_STRVAR(describe_doc, "describe(array, /)\n--\n\n"
                           "How the array will travel, as a dict.");
PyDoc_STRVAR(counts_doc, "counts()\n--\n\n"
                         "{reason: (arrays, bytes)} of this process.");
PyDoc_STRVAR(
    shared_memory_doc,
    "shared_memory(nbytes, data=b'', /)\n--\n\n"
    "New memory, an mmap.mmap, that workers share; it begins with data.");
PyDoc_STRVAR(acknowledge_doc,
             "acknowledge(pid, fd, identity, /)\n--\n\n"
             "Tell a worker that a memory file of its results is not needed\n"
             "any more; False if that should be tried again.");
PyDoc_STRVAR(close_exports_doc,
             "close_exports()\n--\n\n"
             "Close the memory files that were acknowledged; return the "
             "number of others.");
PyDoc_STRVAR(take_lost_doc,
             "take_lost()\n--\n\n"
             "(arrays, bytes): memory files in which tasks have written to\n"
             "pages of their own, since this was last asked.");
PyDoc_STRVAR(forget_images_doc,
             "forget_images()\n--\n\n"
             "A call has ended: the memory files of ordinary memory are kept\n"
             "no longer than for the messages that name them.");
PyDoc_STRVAR(probe_doc,
             "probe(folder=b'', /)\n--\n\n"
             "What the system gives, as a dict; `folder` is where the user\n"
             "wants temporary files.");
PyDoc_STRVAR(known_doc, "known()\n--\n\n"
                        "Number of mappings in the registry.");
PyDoc_STRVAR(set_map_table_doc,
             "set_map_table(source, /)\n--\n\n"
             "For tests: 'auto', 'ioctl', 'text' or 'none'.");
PyDoc_STRVAR(set_pagemap_doc, "set_pagemap(source, /)\n--\n\n"
                              "For tests: 'auto', 'scan' or 'entries'.");

static PyMethodDef functions[] = {
    {"attach", source_attach, METH_VARARGS, attach_doc},
    {"rebuild", (PyCFunction)(void (*)(void))rebuild_call, METH_FASTCALL,
     rebuild_doc},
    {"pending", (PyCFunction)(void (*)(void))pending_view, METH_FASTCALL,
     pending_doc},
    {"pending_call", pending_call, METH_VARARGS, pending_call_doc},
    {"run", task_run, METH_VARARGS, run_doc},
    {"is_own", outgoing_is_own, METH_O, is_own_doc},
    {"new_number", outgoing_new_number, METH_NOARGS, new_number_doc},
    {"count_pending", outgoing_count_pending, METH_NOARGS, count_pending_doc},
    {"is_mapped", describe_is_mapped, METH_O, is_mapped_doc},
    {"describe", describe_array, METH_O, describe_doc},
    {"counts", describe_counts, METH_NOARGS, counts_doc},
    {"shared_memory", shared_memory, METH_VARARGS, shared_memory_doc},
    {"acknowledge", receipts_acknowledge, METH_VARARGS, acknowledge_doc},
    {"close_exports", receipts_close, METH_NOARGS, close_exports_doc},
    {"take_lost", lost_take, METH_NOARGS, take_lost_doc},
    {"forget_images", images_forget, METH_NOARGS, forget_images_doc},
    {"probe", probe_system, METH_VARARGS, probe_doc},
    {"known", known, METH_NOARGS, known_doc},
    {"set_map_table", set_map_table, METH_O, set_map_table_doc},
    {"set_pagemap", set_pagemap, METH_O, set_pagemap_doc},
    {"_after_fork", fork_in_child, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static int
init_types(State *state, PyObject *module)
{
    struct {
        PyType_Spec *spec;
        PyTypeObject **where;
    } types[] = {
        {&backing_spec, &state->backing_type},
        {&outgoing_spec, &state->outgoing_type},
        {&source_spec, &state->source_type},
        {&pending_spec, &state->pending_type},
        {&export_spec, &state->export_type},
        {&image_spec, &state->image_type},
        {&reducer_spec, NULL},
    };
    for (size_t i = 0; i < sizeof(types) / sizeof(*types); i++) {
        PyObject *type = PyType_FromModuleAndSpec(module, types[i].spec, NULL);
        if (type == NULL) {
            return -1;
        }
        int added = PyModule_AddType(module, (PyTypeObject *)type);
        if (types[i].where != NULL) {
            *types[i].where = (PyTypeObject *)type;
        } else {
            Py_DECREF(type);
        }
        if (added < 0) {
            return -1;
        }
    }
    state->attach = PyObject_GetAttrString(module, "attach");
    state->rebuild = PyObject_GetAttrString(module, "rebuild");
    state->pending = PyObject_GetAttrString(module, "pending");
    return state->attach != NULL && state->rebuild != NULL &&
                   state->pending != NULL
               ? 0
               : -1;
}

static int
module_exec(PyObject *module)
{
    State *state = PyModule_GetState(module);
    /* Before anything can fail. */
    state->maptable = (MapTable)MAPTABLE_INIT;
    state->watch = (WriteWatch)WRITEWATCH_INIT;
    if (PyArray_ImportNumPyAPI() < 0 || state_init(state) < 0 ||
        errors_init(state) < 0 || attach_init(state) < 0 ||
        owner_init(state) < 0 || memmap_init(state) < 0 ||
        scan_init(state) < 0 || init_types(state, module) < 0 ||
        registry_init(state) < 0 ||
        PyModule_AddIntConstant(module, "MESSAGE_VERSION", MESSAGE_VERSION) <
            0 ||
        PyModule_AddStringConstant(module, "SYSTEM", system_name()) < 0) {
        return -1;
    }
    return 0;
}

static int
module_traverse(PyObject *module, visitproc visit, void *arg)
{
    return state_traverse(PyModule_GetState(module), visit, arg);
}

static int
module_clear(PyObject *module)
{
    state_clear(PyModule_GetState(module));
    return 0;
}

static void
module_free(void *module)
{
    State *state = PyModule_GetState((PyObject *)module);
    if (state != NULL) {
        maptable_close(&state->maptable);
        descriptor_free(&state->open_files);
        receipts_clear(state);
        images_clear(state);
        module_clear((PyObject *)module);
    }
}

static PyModuleDef_Slot module_slots[] = {
    {Py_mod_exec, module_exec},
    {0, NULL},
};

static struct PyModuleDef module_definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "samemap._core",
    .m_doc = "The C half of samemap.",
    .m_size = sizeof(State),
    .m_methods = functions,
    .m_slots = module_slots,
    .m_traverse = module_traverse,
    .m_clear = module_clear,
    .m_free = module_free,
};

PyMODINIT_FUNC
PyInit__core(void)
{
    return PyModuleDef_Init(&module_definition);
}
