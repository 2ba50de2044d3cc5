/* Owns the limits of a system that tells of none. */
#include "os/limits.h"

#include <limits.h>

long
limits_maps(void)
{
    return LONG_MAX;
}

long
limits_descriptors(void)
{
    return LONG_MAX;
}

int
limits_unreserved(void)
{
    return 0;
}
