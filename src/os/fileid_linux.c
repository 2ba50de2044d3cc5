/* Owns the reading of identities on Linux: statx knows when a file was born. */
#include "os/fileid.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

/* Either a path (fd is AT_FDCWD) or, with an empty path, a descriptor. */
static int
get_status(int fd, const char *path, FileStatus *status)
{
    struct statx stx;
    int flags = *path == '\0' ? AT_EMPTY_PATH : 0;
    if (statx(fd, path, flags, STATX_BASIC_STATS | STATX_BTIME, &stx) < 0) {
        return -1;
    }
    bool has_birth = stx.stx_mask & STATX_BTIME;
    status->id.dev = makedev(stx.stx_dev_major, stx.stx_dev_minor);
    status->id.ino = stx.stx_ino;
    status->id.birth_sec = has_birth ? stx.stx_btime.tv_sec : 0;
    status->id.birth_nsec = has_birth ? stx.stx_btime.tv_nsec : 0;
    status->size = (int64_t)stx.stx_size;
    status->regular = S_ISREG(stx.stx_mode);
    return 0;
}

int
fileid_stat(const char *path, FileStatus *status)
{
    if (*path == '\0') {
        errno = ENOENT;
        return -1;
    }
    return get_status(AT_FDCWD, path, status);
}

int
fileid_fstat(int fd, FileStatus *status)
{
    return get_status(fd, "", status);
}

void
fileid_format_device(uint64_t dev, char *text, size_t size)
{
    snprintf(text, size, "%u:%u", (unsigned)major(dev), (unsigned)minor(dev));
}
