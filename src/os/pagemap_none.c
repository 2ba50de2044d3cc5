/* Owns the answer of a system without a pagemap: it can't tell. */
#include "os/pagemap.h"

int
pagemap_next_modified(PagemapSource Py_UNUSED(source), uintptr_t Py_UNUSED(low),
                      uintptr_t Py_UNUSED(high), PageRange *Py_UNUSED(range))
{
    return -1;
}

int
pagemap_readable(uintptr_t Py_UNUSED(low), uintptr_t Py_UNUSED(high))
{
    return 1;
}
