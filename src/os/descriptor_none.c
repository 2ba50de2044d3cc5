/* Owns the answer of a system where processes can't be asked for their
 * descriptors, nor a map for its file: there is no such way.
 */
#include "os/descriptor.h"

#include <errno.h>

Match
descriptor_match(const Mapping *mapping, const MapEntry *entry,
                 const char *path, int fd, const FileStatus *status)
{
    (void)mapping, (void)entry, (void)path, (void)fd, (void)status;
    return MATCH_UNPROVEN;
}

int
descriptor_try_open(const char *path, const FileId *id, bool writable)
{
    (void)id;
    return fileid_access(path, writable);
}

int
descriptor_scan(OpenFiles *files)
{
    (void)files;
    errno = ENOSYS;
    return -1;
}

void
descriptor_free(OpenFiles *files)
{
    (void)files;
}

const struct OpenFile *
descriptor_of_inode(const OpenFiles *files, uint64_t ino, size_t *count)
{
    (void)files, (void)ino;
    *count = 0;
    return NULL;
}

bool
descriptor_is_scarce(size_t in_use)
{
    (void)in_use;
    return true;
}

int
descriptor_keep(int fd, const Mapping *mapping, const MapEntry *entry,
                const FileId *id, FileStatus *status)
{
    (void)fd, (void)mapping, (void)entry, (void)id, (void)status;
    errno = ENOSYS;
    return -1;
}

void
descriptor_release(int fd, uint64_t ino)
{
    (void)fd, (void)ino;
}

int
descriptor_open_of(long pid, const FileId *id, bool writable,
                   FileStatus *status)
{
    (void)pid, (void)id, (void)writable, (void)status;
    errno = ENOSYS;
    return -1;
}

bool
descriptor_is_sealed(int fd)
{
    (void)fd;
    return false;
}

bool
descriptor_path(int fd, char *path, size_t size)
{
    (void)fd, (void)path, (void)size;
    return false;
}
