/* One task while its arguments are made ready. */
#ifndef SAMEMAP_TASK_H
#define SAMEMAP_TASK_H

#include "idmap.h"
#include "receiver/pending.h"
#include "receiver/source.h"
#include "threadlist.h"

typedef struct Task Task;

/* A list, tuple or dict among the arguments. */
typedef struct {
    PyObject *object; /* owned: a call may take it out of the arguments */
    bool leads;       /* to something pending */
    PyObject *copy;   /* owned, or NULL */
} Node;

typedef struct {
    Pending *pending; /* owned, as that */
    PyObject *array;  /* owned, or NULL */
    bool begun;       /* it is made, or being made */
} Item;

/* The memory of one mapping, for all its views in the task. */
typedef struct {
    Source *source;     /* owned */
    npy_intp low, high; /* what the views span together */
    bool may_copy;
    Memory memory;
    intptr_t next; /* index of the next one with the same key, or -1 */
} Piece;

/* Most tasks have few arguments: so many need no memory but the stack, and no
 * table. */
#define FEW 8

struct Task {
    ThreadLink link;
    State *state;
    /* Makes what `item` stands for, unless it is made: 0, or -1 with an
     * exception. */
    int (*make)(Task *task, Item *item);
    Node *nodes;
    size_t node_count, node_room;
    Item *items;
    size_t item_count, item_room;
    Piece *pieces;
    size_t piece_count, piece_room;
    IdMap first_pieces; /* index of the first piece, by a key of its mapping */
    IdMap places; /* index of a container in nodes or of a Pending in items,
                   * once there are more than a few of them */
    Node few_nodes[FEW];
    Item few_items[FEW];
    Piece few_pieces[FEW];
};

/* Room for one more in an array of `*room` items, of which `count` are used;
 * `few` is the one that it is at first. NULL with MemoryError. */
void *task_reserve(void *array, size_t count, size_t *room, size_t size,
                   const void *few);

/* samemap._core.run(function, args, kwargs): calls the function with an array
 * for each Pending in its arguments, in exact lists, tuples and dicts too,
 * which are then new ones. One Pending becomes one array, one container one
 * container, and what holds no Pending stays the object that it is. Views of
 * one private mapping share memory as the sender's do. All of it lives as long
 * as the call, if nobody keeps it. */
PyObject *task_run(PyObject *module, PyObject *args);

#endif
