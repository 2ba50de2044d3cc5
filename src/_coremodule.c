/* The module: its functions, what it takes from elsewhere, and its state. */
#define SAMEMAP_IMPORTS_NUMPY
#include "core.h"

#include "backing.h"
#include "sender/describe.h"
#include "receiver/pending.h"
#include "receiver/rebuild.h"
#include "receiver/source.h"
#include "receiver/take.h"
#include "sender/outgoing.h"
#include "sender/reduce.h"
#include "sender/shared.h"
#include "registry.h"
#include "state.h"

#include <string.h>

/* In a forked child: what was mapped goes on, but new tokens must differ from
 * the parent's, the map table is another, and the parent's other threads,
 * whose messages are in the lists, do not exist here. */
static PyObject *
after_fork(PyObject *module, PyObject *Py_UNUSED(ignored))
{
    State *state = PyModule_GetState(module);
    maptable_close(&state->maptable);
    registry_after_fork(state);
    threadlist_after_fork(&state->outgoing);
    threadlist_after_fork(&state->tasks);
    if (registry_new_prefix(state) < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

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
    static const char *const names[] = {"auto", "entries", NULL};
    State *state = PyModule_GetState(module);
    int source = find_name(name, names, "'auto' or 'entries'");
    if (source < 0) {
        return NULL;
    }
    state->pagemap = (PagemapSource)source;
    Py_RETURN_NONE;
}

static PyObject *
known(PyObject *module, PyObject *Py_UNUSED(ignored))
{
    State *state = PyModule_GetState(module);
    return PyLong_FromSsize_t(PyDict_Size(state->by_owner));
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
PyDoc_STRVAR(is_mapped_doc,
             "is_mapped(array, /)\n--\n\n"
             "True if the memory of the array belongs to a mapping.");
PyDoc_STRVAR(describe_doc, "describe(array, /)\n--\n\n"
                           "How the array will travel, as a dict.");
PyDoc_STRVAR(counts_doc, "counts()\n--\n\n"
                         "{reason: (arrays, bytes)} of this process.");
PyDoc_STRVAR(
    shared_memory_doc,
    "shared_memory(nbytes, data=b'', /)\n--\n\n"
    "New memory, an mmap.mmap, that workers share; it begins with data.");
PyDoc_STRVAR(known_doc, "known()\n--\n\n"
                        "Number of mappings in the registry.");
PyDoc_STRVAR(set_map_table_doc,
             "set_map_table(source, /)\n--\n\n"
             "For tests: 'auto', 'ioctl', 'text' or 'none'.");
PyDoc_STRVAR(set_pagemap_doc, "set_pagemap(source, /)\n--\n\n"
                              "For tests: 'auto' or 'entries'.");

static PyMethodDef functions[] = {
    {"attach", source_attach, METH_VARARGS, attach_doc},
    {"rebuild", (PyCFunction)(void (*)(void))rebuild_call, METH_FASTCALL,
     rebuild_doc},
    {"pending", (PyCFunction)(void (*)(void))pending_call, METH_FASTCALL,
     pending_doc},
    {"pending_call", pending_function, METH_VARARGS, pending_call_doc},
    {"run", take_run, METH_VARARGS, run_doc},
    {"is_own", outgoing_is_own, METH_O, is_own_doc},
    {"count_pending", outgoing_count_pending, METH_NOARGS, count_pending_doc},
    {"is_mapped", describe_is_mapped, METH_O, is_mapped_doc},
    {"describe", describe_array, METH_O, describe_doc},
    {"counts", describe_counts, METH_NOARGS, counts_doc},
    {"shared_memory", shared_memory, METH_VARARGS, shared_memory_doc},
    {"known", known, METH_NOARGS, known_doc},
    {"set_map_table", set_map_table, METH_O, set_map_table_doc},
    {"set_pagemap", set_pagemap, METH_O, set_pagemap_doc},
    {"_after_fork", after_fork, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

/* New reference: attribute `name` of module `module_name`. */
static PyObject *
import_from(const char *module_name, const char *name)
{
    PyObject *module = PyImport_ImportModule(module_name);
    if (module == NULL) {
        return NULL;
    }
    PyObject *value = PyObject_GetAttrString(module, name);
    Py_DECREF(module);
    return value;
}

static int
init_names(State *state)
{
#define INTERN(name)                                       \
    state->str_##name = PyUnicode_InternFromString(#name); \
    if (state->str_##name == NULL) {                       \
        return -1;                                         \
    }
    STATE_NAMES(INTERN)
#undef INTERN
    state->str_r_plus = PyUnicode_InternFromString("r+");
    state->str_w_plus = PyUnicode_InternFromString("w+");
    return state->str_r_plus != NULL && state->str_w_plus != NULL ? 0 : -1;
}

static int
init_errors(State *state)
{
    struct {
        const char *name;
        PyObject **where;
    } errors[] = {
        {"BackingError", &state->backing_error},
        {"BackingNotFoundError", &state->not_found_error},
        {"BackingReplacedError", &state->replaced_error},
        {"BackingTruncatedError", &state->truncated_error},
        {"BackingPermissionError", &state->permission_error},
        {"StrictError", &state->strict_error},
        {"MessageVersionError", &state->version_error},
    };
    for (size_t i = 0; i < sizeof(errors) / sizeof(*errors); i++) {
        *errors[i].where = import_from("samemap._errors", errors[i].name);
        if (*errors[i].where == NULL) {
            return -1;
        }
    }
    return 0;
}

/* mmap.mmap, and the values that it is called with. */
static int
init_mmap(State *state)
{
    PyObject *hex = import_from("sys", "hexversion");
    long read, write;
    PyObject *py_write = NULL;
    int result = -1;
    state->mmap_type = (PyTypeObject *)import_from("mmap", "mmap");
    state->mmap_shared = import_from("mmap", "MAP_SHARED");
    state->mmap_private = import_from("mmap", "MAP_PRIVATE");
    state->prot_read = import_from("mmap", "PROT_READ");
    py_write = import_from("mmap", "PROT_WRITE");
    if (hex == NULL || state->mmap_type == NULL || state->mmap_shared == NULL ||
        state->mmap_private == NULL || state->prot_read == NULL ||
        py_write == NULL) {
        goto done;
    }
    read = PyLong_AsLong(state->prot_read);
    write = PyLong_AsLong(py_write);
    state->prot_write = PyLong_FromLong(read | write);
    state->mmap_has_trackfd = PyLong_AsLong(hex) >= 0x030D0000;
    result = state->prot_write != NULL && !PyErr_Occurred() ? 0 : -1;
done:
    Py_XDECREF(hex);
    Py_XDECREF(py_write);
    return result;
}

/* What as_strided puts between its result and the array has no public name:
 * take its type from a result. */
static int
init_dummy_array(State *state)
{
    int result = -1;
    npy_intp one = 1;
    PyObject *as_strided = import_from("numpy.lib.stride_tricks", "as_strided");
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

/* A subclass of np.memmap whose instances NumPy builds without a call of
 * Python code; rebuild.c then sets their __class__. */
static int
init_bare_memmap(State *state)
{
    PyObject *finalize =
        PyObject_GetAttrString((PyObject *)&PyArray_Type, "__array_finalize__");
    if (finalize == NULL) {
        return -1;
    }
    state->bare_memmap_type = (PyTypeObject *)PyObject_CallFunction(
        (PyObject *)&PyType_Type, "s(O){s()sN}", "bare_memmap",
        (PyObject *)state->memmap_type, "__slots__", "__array_finalize__",
        finalize);
    return state->bare_memmap_type != NULL ? 0 : -1;
}

static int
init_numpy(State *state)
{
    state->memmap_type = (PyTypeObject *)import_from("numpy", "memmap");
    if (state->memmap_type == NULL || init_bare_memmap(state) < 0 ||
        init_dummy_array(state) < 0) {
        return -1;
    }
    for (int typenum = 0; typenum < STATE_TYPES; typenum++) {
        /* Objects can't be mapped; the others have a length, or a unit, that
         * the number alone doesn't say. */
        if (typenum == NPY_OBJECT || typenum == NPY_STRING ||
            typenum == NPY_UNICODE || typenum == NPY_VOID ||
            typenum == NPY_DATETIME || typenum == NPY_TIMEDELTA) {
            continue;
        }
        state->builtin_dtypes[typenum] =
            (PyObject *)PyArray_DescrFromType(typenum);
        if (state->builtin_dtypes[typenum] == NULL) {
            return -1;
        }
    }
    return 0;
}

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
    state->function_type = (PyTypeObject *)import_from("types", "FunctionType");
    state->method_type = (PyTypeObject *)import_from("types", "MethodType");
    state->partial_type = (PyTypeObject *)import_from("functools", "partial");
    return state->attach != NULL && state->rebuild != NULL &&
                   state->pending != NULL && state->function_type != NULL &&
                   state->method_type != NULL && state->partial_type != NULL
               ? 0
               : -1;
}

static int
init_registry(State *state)
{
    state->by_owner = PyDict_New();
    state->by_token = PyDict_New();
    if (state->by_owner == NULL || state->by_token == NULL) {
        return -1;
    }
    return registry_new_prefix(state);
}

static int
module_exec(PyObject *module)
{
    State *state = PyModule_GetState(module);
    state->maptable = (MapTable)MAPTABLE_INIT; /* before anything can fail */
    if (PyArray_ImportNumPyAPI() < 0 || init_names(state) < 0 ||
        init_errors(state) < 0 || init_mmap(state) < 0 ||
        init_numpy(state) < 0 || init_types(state, module) < 0 ||
        init_registry(state) < 0) {
        return -1;
    }
    return 0;
}

/* Every reference in the state, for traverse and clear alike. */
#define VISIT_STATE(VISIT)  \
    VISIT(mmap_type)        \
    VISIT(memmap_type)      \
    VISIT(bare_memmap_type) \
    VISIT(dummy_array_type) \
    VISIT(backing_type)     \
    VISIT(outgoing_type)    \
    VISIT(source_type)      \
    VISIT(pending_type)     \
    VISIT(attach)           \
    VISIT(rebuild)          \
    VISIT(pending)          \
    VISIT(function_type)    \
    VISIT(method_type)      \
    VISIT(partial_type)     \
    VISIT(backing_error)    \
    VISIT(not_found_error)  \
    VISIT(replaced_error)   \
    VISIT(truncated_error)  \
    VISIT(permission_error) \
    VISIT(strict_error)     \
    VISIT(version_error)    \
    VISIT(mmap_shared)      \
    VISIT(mmap_private)     \
    VISIT(prot_read)        \
    VISIT(prot_write)       \
    VISIT(by_owner)         \
    VISIT(by_token)

static int
module_traverse(PyObject *module, visitproc visit, void *arg)
{
    State *state = PyModule_GetState(module);
#define VISIT(field) Py_VISIT(state->field);
    VISIT_STATE(VISIT)
#undef VISIT
    return 0;
}

static int
module_clear(PyObject *module)
{
    State *state = PyModule_GetState(module);
    state->last = NULL;
#define CLEAR(field) Py_CLEAR(state->field);
    VISIT_STATE(CLEAR)
#undef CLEAR
#define CLEAR_NAME(name) Py_CLEAR(state->str_##name);
    STATE_NAMES(CLEAR_NAME)
#undef CLEAR_NAME
    Py_CLEAR(state->str_r_plus);
    Py_CLEAR(state->str_w_plus);
    for (int typenum = 0; typenum < STATE_TYPES; typenum++) {
        Py_CLEAR(state->builtin_dtypes[typenum]);
    }
    return 0;
}

static void
module_free(void *module)
{
    State *state = PyModule_GetState((PyObject *)module);
    if (state != NULL) {
        maptable_close(&state->maptable);
        descriptor_free(&state->open_files);
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
