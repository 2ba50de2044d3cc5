/* The second half of a message: a view of the memory that the first half names.
 */
#ifndef SAMEMAP_VIEW_H
#define SAMEMAP_VIEW_H

#include "receiver/memory.h"
#include "wire/layout.h"

/* rebuild(memory, layout, dtype=None, patches=None)
 *
 *   memory   what attach made of a reference (a Source), or bytes or a
 *            bytearray with a copy; for what lies in an np.memmap the tuple
 *            around it that wire/memmap.h tells of
 *   layout   bytes: see wire/layout.h
 *   dtype    numpy.dtype; None: the layout has its number
 *   patches  see wire/patches.h
 */
typedef struct {
    PyObject *memmap; /* the tuple, or NULL */
    PyObject *source; /* a Source, bytes or a bytearray */
    Layout layout;
    PyArray_Descr *descr;
    npy_intp low, high; /* offsets in the memory that the elements span */
    PyObject *elements; /* the bytes of all elements, or NULL */
} View;

/* Fills *view with objects borrowed from the arguments, which hold them; what
 * the message has of patches is added to the source. 0, or -1 with an
 * exception. */
int view_parse(State *state, PyObject *const *args, Py_ssize_t nargs,
               View *view);

/* A view that outlives its arguments owns its objects. */
void view_hold(View *view);
void view_clear(View *view);

/* The view may be built on a copy of its bytes: nothing else tells where they
 * lie. */
static inline bool
view_may_be_copied(const View *view)
{
    return view->memmap == NULL && !(view->layout.flags & LAYOUT_MAPPED);
}

/* New reference: the array, on memory that has its offsets; NULL with an
 * exception. */
PyObject *view_build(State *state, const View *view, Memory *memory);

#endif
