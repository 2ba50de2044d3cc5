/* Owns the answer of a system where other processes can't be asked for their
 * descriptors, nor a map for its file: there is no such way.
 */
#include "os/descriptor.h"

#include <errno.h>

bool
descriptor_matches(MapTable *table, const MapEntry *entry, const char *path,
                   const FileStatus *status)
{
    (void)table, (void)entry, (void)path, (void)status;
    return false;
}

int
descriptor_find(MapTable *table, const MapEntry *entry, FileStatus *status)
{
    (void)table, (void)entry, (void)status;
    errno = ENOSYS;
    return -1;
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
