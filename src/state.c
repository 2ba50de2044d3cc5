/* Owns the life of the module's state. */
#include "state.h"

PyObject *
state_import(const char *module_name, const char *name)
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
    state->str_r = PyUnicode_InternFromString("r");
    state->str_r_plus = PyUnicode_InternFromString("r+");
    state->str_w_plus = PyUnicode_InternFromString("w+");
    return state->str_r != NULL && state->str_r_plus != NULL &&
                   state->str_w_plus != NULL
               ? 0
               : -1;
}

static int
init_dtypes(State *state)
{
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

int
state_init(State *state)
{
    if (init_names(state) < 0 || init_dtypes(state) < 0) {
        return -1;
    }
    state->mmap_type = (PyTypeObject *)state_import("mmap", "mmap");
    state->memmap_type = (PyTypeObject *)state_import("numpy", "memmap");
    return state->mmap_type != NULL && state->memmap_type != NULL ? 0 : -1;
}

int
state_traverse(State *state, visitproc visit, void *arg)
{
#define VISIT(type, name) Py_VISIT((PyObject *)state->name);
    STATE_REFERENCES(VISIT)
#undef VISIT
    return 0;
}

void
state_clear(State *state)
{
    state->last = NULL;
#define CLEAR(type, name) Py_CLEAR(state->name);
    STATE_REFERENCES(CLEAR)
#undef CLEAR
#define CLEAR_NAME(name) Py_CLEAR(state->str_##name);
    STATE_NAMES(CLEAR_NAME)
#undef CLEAR_NAME
    for (int typenum = 0; typenum < STATE_TYPES; typenum++) {
        Py_CLEAR(state->builtin_dtypes[typenum]);
    }
}
