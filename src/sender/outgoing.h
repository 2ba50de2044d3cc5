/* A message while it is written: what belongs to it as a whole. */
#ifndef SAMEMAP_OUTGOING_H
#define SAMEMAP_OUTGOING_H

#include "idmap.h"
#include "message.h"
#include "state.h"
#include "threadlist.h"

extern PyType_Spec outgoing_spec;

/* What the pickler of the message is at, and so whose an array will be. */
typedef enum {
    /* One reader gets all of it: each array is that reader's own. */
    PHASE_WHOLE,
    /* A batch of tasks. First what is an argument and neither an array nor a
     * plain container: several tasks may get to an array in there, by ways that
     * only the pickler sees. */
    PHASE_OBJECTS,
    /* The same, of what one task alone has: an array that is an argument too
     * has to be one object in that task, see Outgoing.entangled. */
    PHASE_OWN_OBJECTS,
    /* Then the tasks with their lists, tuples and dicts. An array that is
     * pickled now, and not remembered from before, is only reached by those. */
    PHASE_TASKS,
    /* One task as a whole, in a pickle of its own. */
    PHASE_PART,
} Phase;

/* Memory that a file of the message has a copy of. */
typedef struct {
    char *low, *high;
    npy_intp used;    /* bytes that are elements of arrays */
    PyObject *export; /* owned, or NULL while there is none */
} Span;

struct Siblings; /* siblings.h */

/* An argument, and a task that has it. */
typedef struct {
    PyObject *array; /* owned */
    intptr_t task;
    bool again; /* the second one that has it */
} Noted;

typedef struct {
    PyObject_HEAD
    ThreadLink link;
    State *state;
    uint64_t number; /* never 0; changes with the parts of a batch */
    uint64_t first_number;
    /* Drawn from the same numbers when what is written was given to joblib:
     * what was looked at by a later message is as it is or has been since. */
    uint64_t since;
    PyObject *held; /* list of what must outlive the message, or NULL */
    /* Arrays of more bytes go by memory files, which are made in that folder
     * (bytes; NULL: in memory). -1: none do. */
    npy_intp export_min;
    npy_intp readers; /* that may get them at once, each with its own pages */
    PyObject *export_folder;
    PyObject *spill_folder; /* bytes: where those go that memory has no room
                             * for; NULL: nowhere */
    Phase phase;            /* writer: outgoing.c */
    /* What the tasks hold, see scan.h, or what was found of the results.
     * Writers: scan.c, results.c. */
    IdMap arguments;
    /* By the owners of their memory, as indices. Writer: siblings.c. */
    IdMap owners;
    struct Siblings *siblings;
    size_t siblings_room;
    Noted *noted; /* while the arguments are looked for, the same writer's */
    size_t noted_count, noted_room;
    bool has_large;
    /* An object of one task led to an argument. Writer: scan.c. */
    bool entangled;
    /* Arrays that each task makes its own. Writers: reduce.c, and outgoing.c
     * for reducers in Python. */
    uint64_t pending;
    /* Of results, writer: results.c. */
    PyObject *kept; /* list of what was looked at; NULL: no results */
    Span *spans;
    size_t span_count, span_room;
    Reason export_failure; /* why there is no file for the rest of them */
} Outgoing;

/* Borrowed: the message that this thread writes, or NULL. */
Outgoing *outgoing_current(State *state);

/* The number of `message`. Without one (NULL), a message is what is pickled
 * within one millisecond. Never 0. */
uint64_t outgoing_number(const Outgoing *message);

/* Keeps `object` alive for as long as the sender of this thread's message wants
 * (no-op without an Outgoing that holds): 0 or -1. */
int outgoing_hold(State *state, PyObject *object);

/* samemap._core.is_own(array): how this thread's message has it, for reducers
 * in Python: 0 as it is; 1 for one task only; 2 an argument of several tasks.
 */
PyObject *outgoing_is_own(PyObject *module, PyObject *array);

/* samemap._core.new_number(): for Outgoing's `since`. */
PyObject *outgoing_new_number(PyObject *module, PyObject *ignored);

/* samemap._core.count_pending(): counts one more array that each task makes its
 * own, and returns the list of what the message holds, or None. */
PyObject *outgoing_count_pending(PyObject *module, PyObject *ignored);

#endif
