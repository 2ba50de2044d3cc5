/* Owns the hash table by identity: open addressing, at most half full. */
#include "idmap.h"

#define FIRST_ROOM 16

/* Addresses of objects end in zeros and lie close together: a multiplication by
 * the golden ratio spreads them, and its upper half is the better one. */
static size_t
first_slot(const IdMap *map, const void *key)
{
    uint64_t spread = (uint64_t)(uintptr_t)key * UINT64_C(0x9E3779B97F4A7C15);
    return (size_t)(spread >> 32) & (map->room - 1);
}

/* The slot of `key`, or the free one where it would stand. */
static IdSlot *
find_slot(const IdMap *map, const void *key)
{
    size_t i = first_slot(map, key);
    while (map->slots[i].key != NULL && map->slots[i].key != key) {
        i = (i + 1) & (map->room - 1);
    }
    return &map->slots[i];
}

intptr_t *
idmap_find(const IdMap *map, const void *key)
{
    if (map->count == 0) {
        return NULL;
    }
    IdSlot *slot = find_slot(map, key);
    return slot->key != NULL ? &slot->value : NULL;
}

static int
grow(IdMap *map)
{
    IdMap larger = {NULL, map->count,
                    map->room > 0 ? 2 * map->room : FIRST_ROOM};
    larger.slots = PyMem_Calloc(larger.room, sizeof(*larger.slots));
    if (larger.slots == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    for (size_t i = 0; i < map->room; i++) {
        if (map->slots[i].key != NULL) {
            *find_slot(&larger, map->slots[i].key) = map->slots[i];
        }
    }
    PyMem_Free(map->slots);
    *map = larger;
    return 0;
}

int
idmap_add(IdMap *map, const void *key, intptr_t value)
{
    if (2 * (map->count + 1) > map->room && grow(map) < 0) {
        return -1;
    }
    assert(idmap_find(map, key) == NULL);
    *find_slot(map, key) = (IdSlot){key, value};
    map->count++;
    return 0;
}

void
idmap_clear(IdMap *map)
{
    PyMem_Free(map->slots);
    *map = (IdMap){NULL, 0, 0};
}
