/* Owns the answer of a system whose map table samemap can't read: none.
 *
 * The callers then go by the attributes of np.memmap. macOS
 * (proc_regionfilename) would be added as a file beside this one.
 */
#include "os/maptable.h"

int
maptable_find(MapTable *table, uintptr_t low, uintptr_t high, MapEntry *entry)
{
    (void)table, (void)low, (void)high, (void)entry;
    return -1;
}

bool
maptable_is_expected(const MapTable *table)
{
    (void)table;
    return false;
}

bool
maptable_is_slow(const MapTable *table)
{
    (void)table;
    return false;
}

uint64_t
maptable_device(const MapEntry *entry)
{
    (void)entry;
    return 0;
}

bool
maptable_is_nameless(const MapEntry *entry)
{
    (void)entry;
    return false;
}

void
maptable_close(MapTable *table)
{
    (void)table;
}
