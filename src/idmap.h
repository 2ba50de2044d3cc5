/* A map from objects, by identity, to a small number. Plain: it holds no
 * references, so whoever fills it keeps the objects alive. */
#ifndef SAMEMAP_IDMAP_H
#define SAMEMAP_IDMAP_H

#include "core.h"

typedef struct {
    const void *key; /* NULL: the slot is free */
    intptr_t value;
} IdSlot;

/* All zero: the empty map. */
typedef struct {
    IdSlot *slots;
    size_t count, room; /* room: a power of two, or 0 */
} IdMap;

/* The value of `key`, to be read or changed until the next idmap_add; NULL when
 * it is not there. */
intptr_t *idmap_find(const IdMap *map, const void *key);

/* Enters `key`, which is not there yet: 0, or -1 with MemoryError. */
int idmap_add(IdMap *map, const void *key, intptr_t value);

void idmap_clear(IdMap *map);

#endif
