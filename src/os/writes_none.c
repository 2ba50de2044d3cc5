/* Owns the answer of a system that doesn't watch writes. */
#include "os/writes.h"

#include <errno.h>

bool
writes_pages(const void *data, size_t length, uintptr_t *low, uintptr_t *high)
{
    (void)data, (void)length;
    *low = *high = 0;
    return false;
}

int
writes_arm(WriteWatch *watch, uintptr_t low, uintptr_t high)
{
    (void)watch, (void)low, (void)high;
    errno = ENOSYS;
    return -1;
}

Writes
writes_since(WriteWatch *watch, uintptr_t low, uintptr_t high)
{
    (void)watch, (void)low, (void)high;
    return WRITES_UNKNOWN;
}

void
writes_disarm(WriteWatch *watch, uintptr_t low, uintptr_t high)
{
    (void)watch, (void)low, (void)high;
}

bool
writes_may_be_unseen(void)
{
    return true;
}

void
writes_close(WriteWatch *watch)
{
    (void)watch;
}
