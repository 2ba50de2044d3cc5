/* A message while it is written or read: what belongs to it as a whole. */
#ifndef SAMEMAP_MESSAGE_H
#define SAMEMAP_MESSAGE_H

#include "state.h"

extern PyType_Spec outgoing_spec, incoming_spec;

/* Number of the message that this thread is writing. Without an Outgoing, a
 * message is what is pickled within one millisecond. Never 0. */
uint64_t message_number(State *state);

/* The number is a time of day, not that of an Outgoing. */
static inline bool
message_is_implicit(uint64_t number)
{
    return number >> 63;
}

/* Keeps `object` alive for as long as the sender of this thread's message
 * wants (no-op without an Outgoing that holds): 0 or -1. */
int message_hold(State *state, PyObject *object);

/* For a sender, with an exception set: a reduction that makes the receiver's
 * task raise it, if this thread's message carries errors, else NULL with the
 * exception still set. `array` gives the stand-in its type and shape. */
PyObject *message_refuse(State *state, PyArrayObject *array);

/* For a receiver, with an exception set: notes it in this thread's message
 * and clears it: a new reference to it; NULL (exception still set) when
 * nobody is there to look at the note or it isn't an Exception. */
PyObject *message_note(State *state);

/* samemap._core.refused(error, dtype, layout): notes or raises `error`, the
 * sender's; returns the stand-in that the reader goes on with. */
PyObject *message_refused(PyObject *module, PyObject *args);

/* samemap._core.incoming(raises): a new Incoming. */
PyObject *message_incoming(PyObject *module, PyObject *args);

/* samemap._core.note(error): notes or raises `error`; returns it. */
PyObject *message_note_call(PyObject *module, PyObject *error);

/* In a forked child: messages of the parent's other threads are none here. */
void message_after_fork(State *state);

#endif
