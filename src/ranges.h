/* A set of addresses, kept as ranges. */
#ifndef SAMEMAP_RANGES_H
#define SAMEMAP_RANGES_H

#include "core.h"

typedef struct {
    char *low, *high; /* high is exclusive */
} Range;

/* Sorted; neither empty nor touching each other. All zero: the empty set. */
typedef struct {
    Range *items;
    size_t count, room;
} Ranges;

/* Adds [low, high): 0, or -1 with MemoryError. */
int ranges_add(Ranges *set, char *low, char *high);

/* The first part of [low, high) that is not in the set; false if all is. */
bool ranges_find_gap(const Ranges *set, char *low, char *high, Range *gap);

void ranges_clear(Ranges *set);

#endif
