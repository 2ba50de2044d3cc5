/* Owns sets of addresses: which parts of a private map are in a message? */
#include "ranges.h"

#include <string.h>

/* Index of the first range that ends at `address` or after it. */
static size_t
find(const Ranges *set, const char *address)
{
    size_t low = 0, high = set->count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (set->items[middle].high < address) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low;
}

int
ranges_add(Ranges *set, char *low, char *high)
{
    if (low >= high) {
        return 0;
    }
    if (set->count == set->room) {
        size_t room = set->room > 0 ? 2 * set->room : 4;
        Range *larger = PyMem_Realloc(set->items, room * sizeof(*larger));
        if (larger == NULL) {
            PyErr_NoMemory();
            return -1;
        }
        set->items = larger;
        set->room = room;
    }
    /* Those from first up to last touch the new one, which takes them in. */
    size_t first = find(set, low), last = first;
    while (last < set->count && set->items[last].low <= high) {
        low = set->items[last].low < low ? set->items[last].low : low;
        high = set->items[last].high > high ? set->items[last].high : high;
        last++;
    }
    memmove(set->items + first + 1, set->items + last,
            (set->count - last) * sizeof(*set->items));
    set->items[first] = (Range){low, high};
    set->count = set->count + 1 - (last - first);
    assert(first == 0 || set->items[first - 1].high < low);
    assert(first + 1 == set->count || set->items[first + 1].low > high);
    return 0;
}

bool
ranges_find_gap(const Ranges *set, char *low, char *high, Range *gap)
{
    size_t i = find(set, low);
    if (i < set->count && set->items[i].high == low) {
        i++;
    }
    if (i < set->count && set->items[i].low <= low) {
        low = set->items[i].high;
        i++;
    }
    if (i < set->count && set->items[i].low < high) {
        high = set->items[i].low;
    }
    *gap = (Range){low, high};
    return low < high;
}

void
ranges_clear(Ranges *set)
{
    PyMem_Free(set->items);
    *set = (Ranges){NULL, 0, 0};
}
