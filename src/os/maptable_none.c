/* Owns the answer of a system whose map table samemap can't read: none.
 *
 * The callers then go by the attributes of np.memmap. macOS
 * (proc_regionfilename) would be added as a file beside this one.
 */
#include "os/maptable.h"

int
maptable_find(MapTable *Py_UNUSED(table), uintptr_t Py_UNUSED(low),
              uintptr_t Py_UNUSED(high), MapEntry *Py_UNUSED(entry))
{
    return -1;
}

bool
maptable_is_expected(const MapTable *Py_UNUSED(table))
{
    return false;
}

bool
maptable_is_slow(const MapTable *Py_UNUSED(table))
{
    return false;
}

bool
maptable_same_file(const MapEntry *a, const MapEntry *b)
{
    return a->inode == b->inode && a->dev_major == b->dev_major &&
           a->dev_minor == b->dev_minor;
}

void
maptable_close(MapTable *Py_UNUSED(table))
{
}
