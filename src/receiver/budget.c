/* Owns the limits of what messages take for single tasks: the process is the
 * user's. */
#include "receiver/budget.h"

#include "os/limits.h"

/* The part of what a process may have that such mappings take at most. */
#define SHARE_OF_LIMIT 4

/* Sources that keep their file open. */
#define KEPT_MAX 32

bool
budget_has_map(State *state, bool keeps_descriptor)
{
    if (state->map_limit == 0) {
        state->map_limit = limits_maps();
    }
    long maps = state->map_limit, descriptors = limits_descriptors();
    if (keeps_descriptor && descriptors < maps) {
        maps = descriptors;
    }
    return state->own_maps < maps / SHARE_OF_LIMIT;
}

bool
budget_has_descriptor(State *state)
{
    return state->kept_descriptors < KEPT_MAX;
}
