/* Owns what a forked child forgets of its parent. */
#include "fork.h"

#include "registry.h"
#include "sender/export.h"
#include "sender/images.h"
#include "sender/receipts.h"

/* In a forked child: what was mapped goes on, but new tokens must differ from
 * the parent's, the map table is another, and the parent's other threads,
 * whose messages are in the lists, do not exist here. */
PyObject *
fork_in_child(PyObject *module, PyObject *Py_UNUSED(ignored))
{
    State *state = PyModule_GetState(module);
    maptable_close(&state->maptable);
    registry_after_fork(state);
    export_after_fork(state);
    receipts_clear(state);
    images_after_fork(state);
    threadlist_after_fork(&state->outgoing);
    threadlist_after_fork(&state->tasks);
    threadlist_after_fork(&state->watches);
    if (registry_new_prefix(state) < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}
