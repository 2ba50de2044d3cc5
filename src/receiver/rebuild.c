/* Owns the choice of memory for an array that is built as its message is read.
 */
#include "receiver/rebuild.h"

#include "receiver/source.h"
#include "receiver/pieces.h"
#include "receiver/view.h"

/* The view's private memory, into *memory or as a borrowed pointer to one that
 * others share; NULL with an exception. */
static Memory *
get_private(State *state, const View *view, Memory *memory)
{
    Source *source = (Source *)view->source;
    if (view->layout.flags & LAYOUT_ALONE) {
        return source_make(source, view->low, view->high,
                           view_may_be_copied(view), memory) == 0
                   ? memory
                   : NULL;
    }
    Memory *shared = pieces_get(state, source, view->low, view->high);
    if (shared == NULL && !PyErr_Occurred()) {
        shared = source_get(source, SOURCE_PRIVATE);
    }
    if (shared != NULL) {
        /* Nobody has written there yet: all of a message is read before. */
        patches_apply(&source->patches, view->low, view->high,
                      memory_at(shared, view->low));
    }
    return shared;
}

static PyObject *
rebuild(State *state, const View *view)
{
    Memory made = {0};
    Memory *memory;
    if (Py_TYPE(view->source) != state->source_type) {
        memory = memory_of(state, view->source, &made) == 0 ? &made : NULL;
    } else if (view->layout.flags & LAYOUT_PRIVATE) {
        memory = get_private(state, view, &made);
    } else {
        memory = source_get((Source *)view->source,
                            view->layout.flags & LAYOUT_OWN ? SOURCE_OWN
                                                            : SOURCE_SHARED);
    }
    PyObject *array = memory != NULL ? view_build(state, view, memory) : NULL;
    memory_clear(&made);
    return array;
}

PyObject *
rebuild_call(PyObject *module, PyObject *const *args, Py_ssize_t nargs)
{
    State *state = PyModule_GetState(module);
    View view;
    PyObject *array = NULL;
    if (view_parse(state, args, nargs, &view) == 0) {
        array = rebuild(state, &view);
    }
    view_clear(&view);
    return array;
}
