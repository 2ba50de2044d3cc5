/* How many maps and descriptors may messages take of what the process has? */
#ifndef SAMEMAP_BUDGET_H
#define SAMEMAP_BUDGET_H

#include "state.h"

/* There is room for one more mapping that only one task or message uses;
 * `keeps_descriptor`: and for its descriptor. */
bool budget_has_map(State *state, bool keeps_descriptor);

/* One more source may keep its file open between the tasks of a batch. */
bool budget_has_descriptor(State *state);

#endif
