/* Owns the reading of identities where there is no more than POSIX: without the
 * time of birth.
 */
#include "os/fileid.h"

#include <stdio.h>
#include <sys/stat.h>

static void
set_status(const struct stat *st, FileStatus *status)
{
    status->id.dev = (uint64_t)st->st_dev;
    status->id.ino = (uint64_t)st->st_ino;
    status->id.birth_sec = 0;
    status->id.birth_nsec = 0;
    status->size = (int64_t)st->st_size;
    status->regular = S_ISREG(st->st_mode);
}

int
fileid_stat(const char *path, FileStatus *status)
{
    struct stat st;
    if (stat(path, &st) < 0) {
        return -1;
    }
    set_status(&st, status);
    return 0;
}

int
fileid_fstat(int fd, FileStatus *status)
{
    struct stat st;
    if (fstat(fd, &st) < 0) {
        return -1;
    }
    set_status(&st, status);
    return 0;
}

void
fileid_format_device(uint64_t dev, char *text, size_t size)
{
    snprintf(text, size, "%llu", (unsigned long long)dev);
}
