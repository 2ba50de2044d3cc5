/* Owns the size of a page, which POSIX tells. */
#include "os/page.h"

#include <unistd.h>

size_t
page_size(void)
{
    return (size_t)sysconf(_SC_PAGESIZE);
}
