/* Which backing holds the memory of this array? */
#ifndef SAMEMAP_RESOLVE_H
#define SAMEMAP_RESOLVE_H

#include "backing.h"
#include "sender/owner.h"

/* New reference: the backing of the memory of `array`, which is [low, high) and
 * has the owner `owner`; made and registered when it is new. Its `reason` says
 * whether it has a file. NULL with an exception. */
Backing *resolve_backing(State *state, PyArrayObject *array, const Owner *owner,
                         char *low, char *high, uint64_t message);

/* Registers `map`, an mmap.mmap that was just made to be shared: 0, or -1 with
 * an exception. */
int resolve_request(State *state, PyObject *map);

#endif
