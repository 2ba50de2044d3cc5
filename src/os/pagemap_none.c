/* Owns the answer of a system without a pagemap: it can't tell. */
#include "os/pagemap.h"

int
pagemap_next_modified(PagemapSource source, uintptr_t low, uintptr_t high,
                      PageRange *range)
{
    (void)source, (void)low, (void)high, (void)range;
    return -1;
}

int
pagemap_readable(uintptr_t low, uintptr_t high)
{
    (void)low, (void)high;
    return 1;
}

int
pagemap_shows(uintptr_t low, uintptr_t high, uint64_t file_offset, int fd)
{
    (void)low, (void)high, (void)file_offset, (void)fd;
    return -1;
}
