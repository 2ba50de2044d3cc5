/* Owns the private memory of a task: one for all its views of one mapping, made
 * before the task runs, so that no array shows what another one's user has
 * written.
 */
#include "receiver/pieces.h"

#include <string.h>

static bool
same_mapping(const Source *a, const Source *b)
{
    return a == b ||
           memcmp(PyBytes_AsString(a->reference.py_token),
                  PyBytes_AsString(b->reference.py_token), TOKEN_SIZE) == 0;
}

static Piece *
add_piece(Task *task, Source *source, npy_intp low, npy_intp high,
          bool may_copy)
{
    Piece *pieces =
        task_reserve(task->pieces, task->piece_count, &task->piece_room,
                     sizeof(*pieces), task->few_pieces);
    if (pieces == NULL) {
        return NULL;
    }
    task->pieces = pieces;
    Piece *piece = &pieces[task->piece_count++];
    *piece = (Piece){source, low, high, may_copy, {0}};
    Py_INCREF((PyObject *)source);
    return piece;
}

/* Adds what one view needs to the piece of its mapping: 0 or -1. */
static int
add_view(Task *task, const View *view, bool may_copy)
{
    Source *source = (Source *)view->source;
    may_copy &= view_may_be_copied(view);
    for (size_t i = 0; i < task->piece_count; i++) {
        Piece *piece = &task->pieces[i];
        if (same_mapping(piece->source, source)) {
            piece->low = view->low < piece->low ? view->low : piece->low;
            piece->high = view->high > piece->high ? view->high : piece->high;
            piece->may_copy &= may_copy;
            return 0;
        }
    }
    return add_piece(task, source, view->low, view->high, may_copy) != NULL
               ? 0
               : -1;
}

int
pieces_make(Task *task)
{
    bool may_copy = true;
    for (size_t i = 0; i < task->item_count; i++) {
        /* Nobody knows before which bytes of a mapping are used there. */
        may_copy &= task->items[i].pending->call == NULL;
    }
    for (size_t i = 0; i < task->item_count; i++) {
        const Pending *pending = task->items[i].pending;
        if (pending->call == NULL &&
            Py_TYPE(pending->view.source) == task->state->source_type &&
            add_view(task, &pending->view, may_copy) < 0) {
            return -1;
        }
    }
    for (size_t i = 0; i < task->piece_count; i++) {
        Piece *piece = &task->pieces[i];
        if (source_make(piece->source, piece->low, piece->high, piece->may_copy,
                        &piece->memory) < 0) {
            return -1;
        }
    }
    return 0;
}

static Memory *
find_piece(Task *task, const Source *source, npy_intp low, npy_intp high)
{
    for (size_t i = 0; i < task->piece_count; i++) {
        Piece *piece = &task->pieces[i];
        if (same_mapping(piece->source, source) && low >= piece->memory.low &&
            high <= piece->memory.high) {
            return &piece->memory;
        }
    }
    return NULL;
}

Memory *
pieces_get(State *state, Source *source, npy_intp low, npy_intp high)
{
    Task *task = (Task *)(void *)threadlist_current(state->tasks);
    if (task == NULL) {
        return NULL;
    }
    Memory *memory = find_piece(task, source, low, high);
    if (memory != NULL) {
        return memory;
    }
    Piece *piece = add_piece(task, source, low, high, false);
    if (piece == NULL ||
        source_make(source, low, high, false, &piece->memory) < 0) {
        return NULL;
    }
    return &piece->memory;
}
