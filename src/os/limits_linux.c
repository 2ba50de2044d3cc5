/* Owns the limits as Linux has them. */
#include "os/limits.h"

#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <unistd.h>

/* The kernel's own default, for where /proc doesn't tell. */
#define DEFAULT_MAPS 65530

long
limits_maps(void)
{
    char text[32];
    int fd = open("/proc/sys/vm/max_map_count", O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        return DEFAULT_MAPS;
    }
    ssize_t n = read(fd, text, sizeof(text) - 1);
    close(fd);
    if (n <= 0) {
        return DEFAULT_MAPS;
    }
    text[n] = '\0';
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
