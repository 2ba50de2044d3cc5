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

/* A task may have ten thousand mappings, each with its token: that makes the
 * key. */
static const void *
key_of(const Source *source)
{
    uint64_t parts[TOKEN_SIZE / sizeof(uint64_t)];
    memcpy(parts, PyBytes_AsString(source->reference.py_token), TOKEN_SIZE);
    uintptr_t key = (uintptr_t)(parts[0] ^ parts[1]);
    return (const void *)(key != 0 ? key : 1);
}

/* Index of the first piece that may be one of the mapping, or -1; the others
 * are next to it. */
static intptr_t
first_piece(const Task *task, const Source *source)
{
    const intptr_t *first = idmap_find(&task->first_pieces, key_of(source));
    return first != NULL ? *first : -1;
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
    const intptr_t place = (intptr_t)task->piece_count;
    intptr_t last = first_piece(task, source);
    if (last < 0 && idmap_add(&task->first_pieces, key_of(source), place) < 0) {
        return NULL;
    }
    while (last >= 0 && pieces[last].next >= 0) {
        last = pieces[last].next;
    }
    if (last >= 0) {
        pieces[last].next = place;
    }
    task->piece_count++;
    pieces[place] = (Piece){source, low, high, may_copy, {0}, -1};
    Py_INCREF((PyObject *)source);
    return &pieces[place];
}

/* Adds what one view needs to the piece of its mapping: 0 or -1. */
static int
add_view(Task *task, const View *view, bool may_copy)
{
    Source *source = (Source *)view->source;
    may_copy &= view_may_be_copied(view);
    for (intptr_t i = first_piece(task, source); i >= 0;
         i = task->pieces[i].next) {
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
    /* The pieces may move and become more meanwhile: a finaliser runs, and
     * reads a message. Those have their memory. */
    const size_t count = task->piece_count;
    for (size_t i = 0; i < count; i++) {
        Memory memory = {0};
        Piece *piece = &task->pieces[i];
        if (source_make(piece->source, piece->low, piece->high, piece->may_copy,
                        &memory) < 0) {
            return -1;
        }
        task->pieces[i].memory = memory;
    }
    return 0;
}

static Memory *
find_piece(Task *task, const Source *source, npy_intp low, npy_intp high)
{
    for (intptr_t i = first_piece(task, source); i >= 0;
         i = task->pieces[i].next) {
        Piece *piece = &task->pieces[i];
        if (same_mapping(piece->source, source) &&
            piece->memory.owner != NULL && low >= piece->memory.low &&
            high <= piece->memory.high && memory_is_there(&piece->memory)) {
            return &piece->memory;
        }
    }
    return NULL;
}

int
pieces_get(State *state, Source *source, npy_intp low, npy_intp high,
           Memory *memory)
{
    Task *task = (Task *)(void *)threadlist_current(state->tasks);
    Memory *known;
    if (task == NULL) {
        return 0;
    }
    if ((known = find_piece(task, source, low, high)) != NULL) {
        memory_share(known, memory);
        return 1;
    }
    /* The piece after the memory: one without would be found. */
    if (source_make(source, low, high, false, memory) < 0) {
        return -1;
    }
    Piece *piece = add_piece(task, source, low, high, false);
    if (piece == NULL) {
        memory_clear(memory);
        return -1;
    }
    memory_share(memory, &piece->memory);
    return 1;
}
