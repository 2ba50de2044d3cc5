/* Owns the counting of writes that are lost. */
#include "receiver/lost.h"

#include "os/page.h"
#include "os/pagemap.h"
#include "registry.h"

void
lost_begin(State *state, LostWatch *watch)
{
    watch->maps = NULL;
    threadlist_push(&state->watches, &watch->link);
}

int
lost_note(State *state, Backing *backing)
{
    LostWatch *watch = (LostWatch *)threadlist_current(state->watches);
    if (watch == NULL) {
        return 0;
    }
    if (watch->maps == NULL) {
        watch->maps = PyList_New(0);
    }
    return watch->maps != NULL ? PyList_Append(watch->maps, (PyObject *)backing)
                               : -1;
}

static bool
is_modified(const State *state, const Backing *backing)
{
    const uintptr_t page = page_size();
    const Mapping *mapping = &backing->mapping;
    uintptr_t low = (uintptr_t)mapping->start;
    uintptr_t high = low + (uintptr_t)mapping->length;
    PageRange pages;
    int found;
    Py_BEGIN_ALLOW_THREADS
    found = pagemap_next_modified(state->pagemap, low,
                                  (high + page - 1) / page * page, &pages);
    Py_END_ALLOW_THREADS
    return found == 1;
}

void
lost_end(State *state, LostWatch *watch)
{
    PyObject *type, *error, *traceback;
    threadlist_remove(&state->watches, &watch->link);
    if (watch->maps == NULL) {
        return;
    }
    PyErr_Fetch(&type, &error, &traceback);
    for (Py_ssize_t i = 0; i < PyList_Size(watch->maps); i++) {
        Backing *backing = (Backing *)PyList_GetItem(watch->maps, i);
        /* A map that is gone has nothing to be looked at any more. */
        PyObject *owner = registry_get_owner(backing);
        if (owner != NULL && is_modified(state, backing)) {
            state->lost.arrays++;
            state->lost.bytes += (uint64_t)backing->mapping.length;
        }
        Py_XDECREF(owner);
    }
    Py_CLEAR(watch->maps);
    PyErr_Restore(type, error, traceback);
}

PyObject *
lost_take(PyObject *module, PyObject *Py_UNUSED(ignored))
{
    State *state = PyModule_GetState(module);
    const Count lost = state->lost;
    state->lost = (Count){0, 0};
    return Py_BuildValue("KK", (unsigned long long)lost.arrays,
                         (unsigned long long)lost.bytes);
}
