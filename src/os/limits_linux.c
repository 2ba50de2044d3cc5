/* Owns the limits as Linux has them. */
#include "os/limits.h"

#include "os/textfile.h"

#include <limits.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/resource.h>

/* The kernel's own default, for where /proc doesn't tell. */
#define DEFAULT_MAPS 65530

long
limits_maps(void)
{
    char text[TEXTFILE_SIZE];
    if (!textfile_read("/proc/sys/vm/max_map_count", text)) {
        return DEFAULT_MAPS;
    }
    long maps = strtol(text, NULL, 10);
    return maps > 0 ? maps : DEFAULT_MAPS;
}

long
limits_descriptors(void)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) < 0 || limit.rlim_cur > LONG_MAX) {
        return LONG_MAX;
    }
    return (long)limit.rlim_cur;
}

int
limits_unreserved(void)
{
    return MAP_NORESERVE;
}
