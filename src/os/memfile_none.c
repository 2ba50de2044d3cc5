/* Owns the answer of a system where memory has no file that others could open.
 */
#include "os/memfile.h"

#include <errno.h>
#include <unistd.h>

int
memfile_create(MemFile *file, const char *folder, int64_t size)
{
    (void)folder, (void)size;
    *file = (MemFile)MEMFILE_INIT;
    errno = ENOSYS;
    return -1;
}

int
memfile_fill(const MemFile *file, LargePages *pages, int64_t offset,
             const char *data, size_t length)
{
    (void)file, (void)pages, (void)offset, (void)data, (void)length;
    errno = ENOSYS;
    return -1;
}

bool
memfile_equals(const MemFile *file, int64_t offset, const char *data,
               size_t length)
{
    (void)file, (void)offset, (void)data, (void)length;
    return false;
}

void
memfile_populate(const MemFile *file, LargePages *pages)
{
    (void)file, (void)pages;
}

int
memfile_secure(const MemFile *file)
{
    (void)file;
    errno = ENOSYS;
    return -1;
}

int
memfile_seal(const MemFile *file, bool shrink)
{
    (void)file, (void)shrink;
    return 0;
}

bool
memfile_is_sealed(int fd)
{
    (void)fd;
    return false;
}

int64_t
memfile_room(const MemFile *file)
{
    (void)file;
    return 0;
}

void
memfile_close(MemFile *file)
{
    if (file->fd >= 0) {
        close(file->fd);
    }
    *file = (MemFile)MEMFILE_INIT;
}

void
memfile_reserve(MemfileHole *hole, size_t length)
{
    (void)length;
    *hole = (MemfileHole){NULL, 0, NULL, 0};
}

void
memfile_release(MemfileHole *hole)
{
    (void)hole;
}
