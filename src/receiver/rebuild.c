/* Owns the choice of memory for an array that is built as its message is read.
 */
#include "receiver/rebuild.h"

#include "receiver/source.h"
#include "receiver/pieces.h"
#include "receiver/view.h"

/* The view's private memory, in *memory or as a borrowed pointer to that of the
 * source; NULL with an exception. */
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
    int found = pieces_get(state, source, view->low, view->high, memory);
    if (found > 0) {
        patches_apply(&source->patches, view->low, view->high,
                      memory_at(memory, view->low));
    }
    if (found != 0) {
        return found > 0 ? memory : NULL;
    }
    Memory *shared = source_get(source, SOURCE_PRIVATE);
    if (shared != NULL) {
        /* Each patch once: what was read before may have written there (a
         * __setstate__), and many views may lie on the same patches. */
        patches_apply_new(&source->patches, view->low, view->high,
                          memory_at(shared, 0));
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
    if (made.owner != NULL) {
        memory_clear(&made);
    }
    return array;
}

PyObject *
rebuild_call(PyObject *module, PyObject *const *args, Py_ssize_t nargs)
{
    State *state = PyModule_GetState(module);
    View view;
    return view_parse(state, args, nargs, &view) == 0 ? rebuild(state, &view)
                                                      : NULL;
}
