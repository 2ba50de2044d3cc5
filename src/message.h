/* The number of a message: what is learned for one is good for all of it.
 *
 * An Outgoing counts; without one a message is what is pickled within a
 * millisecond, and the time is its number. */
#ifndef SAMEMAP_MESSAGE_H
#define SAMEMAP_MESSAGE_H

#include "state.h"

/* Keeps times apart from counted numbers. */
#define MESSAGE_IMPLICIT (UINT64_C(1) << 63)

/* Nobody says where the message ends: the next one may have the same number. */
static inline bool
message_is_implicit(uint64_t number)
{
    return number & MESSAGE_IMPLICIT;
}

/* That of the message which this thread writes; never 0. */
uint64_t message_number(State *state);

#endif
