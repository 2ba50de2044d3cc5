/* How much time has passed? */
#ifndef SAMEMAP_CLOCK_H
#define SAMEMAP_CLOCK_H

#include <stdint.h>

/* Milliseconds since a moment that stays the same while the system runs. Never
 * goes back, whatever happens to the time of day. */
uint64_t clock_milliseconds(void);

#endif
