/* Owns the ways to a mapped file other than trusting its name: /proc shows the
 * descriptors of this process, and of others of the same user.
 */
#include "os/descriptor.h"

#include "os/page.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include <sys/prctl.h>
#include <sys/sysmacros.h>

/* F_SEAL_FUTURE_WRITE of Linux 5.1, which older headers don't have. */
#define SEAL_FUTURE_WRITE 0x0010

static bool
same_device(const MapEntry *entry, const FileStatus *status)
{
    return status->id.dev == makedev(entry->dev_major, entry->dev_minor);
}

/* What the map table says of a page of the file at `path`. */
static bool
probe(MapTable *table, const MapEntry *entry, const char *path)
{
    FileStatus status;
    const size_t page = page_size();
    int fd = fileid_open(path, false, &status);
    if (fd < 0) {
        return false;
    }
    bool same = false;
    void *address = mmap(NULL, page, PROT_READ, MAP_SHARED, fd, 0);
    close(fd);
    if (address != MAP_FAILED) {
        MapEntry other;
        uintptr_t low = (uintptr_t)address;
        same = maptable_find(table, low, low + page, &other) == 1 &&
               maptable_same_file(entry, &other);
        munmap(address, page);
    }
    return same;
}

bool
descriptor_matches(MapTable *table, const MapEntry *entry, const char *path,
                   const FileStatus *status)
{
    if (!status->regular || status->id.ino != entry->inode) {
        return false;
    }
    return same_device(entry, status) || probe(table, entry, path);
}

/* The number that a name in /proc/<pid>/fd is, or -1 ("."). */
static int
parse_fd(const char *name)
{
    char *end;
    long fd = strtol(name, &end, 10);
    return end != name && *end == '\0' && fd <= INT_MAX ? (int)fd : -1;
}

int
descriptor_find(MapTable *table, const MapEntry *entry, FileStatus *status)
{
    int found = -1;
    DIR *directory = opendir("/proc/self/fd");
    if (directory == NULL) {
        return -1;
    }
    for (struct dirent *item; (item = readdir(directory)) != NULL;) {
        char path[64];
        int fd = parse_fd(item->d_name);
        if (fd < 0 || fileid_fstat(fd, status) < 0) {
            continue;
        }
        snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
        if (!descriptor_matches(table, entry, path, status)) {
            continue;
        }
        found = fcntl(fd, F_DUPFD_CLOEXEC, 3);
        /* Another thread may have closed and reused the number since. */
        FileId seen = status->id;
        if (found >= 0 && (fileid_fstat(found, status) < 0 ||
                           !fileid_equal(&status->id, &seen))) {
            close(found);
            found = -1;
        }
        if (found >= 0) {
            break;
        }
    }
    closedir(directory);
    return found;
}

int
descriptor_open_of(long pid, const FileId *id, bool writable,
                   FileStatus *status)
{
    int found = -1;
    char path[64];
    snprintf(path, sizeof(path), "/proc/%ld/fd", pid);
    DIR *directory = opendir(path);
    if (directory == NULL) {
        return -1;
    }
    for (struct dirent *item; (item = readdir(directory)) != NULL;) {
        int fd = parse_fd(item->d_name);
        snprintf(path, sizeof(path), "/proc/%ld/fd/%d", pid, fd);
        if (fd < 0 || fileid_stat(path, status) < 0 ||
            !fileid_equal(&status->id, id)) {
            continue;
        }
        found = fileid_open(path, writable, status);
        /* It may have been closed, and the number reused, since. */
        if (found >= 0 && fileid_equal(&status->id, id)) {
            break;
        }
        if (found >= 0) {
            close(found);
            found = -1;
        }
    }
    closedir(directory);
    return found;
}

bool
descriptor_is_sealed(int fd)
{
    int seals = fd >= 0 ? fcntl(fd, F_GET_SEALS) : -1;
    return seals >= 0 && seals & (F_SEAL_WRITE | SEAL_FUTURE_WRITE);
}

bool
descriptor_path(int fd, char *path, size_t size)
{
    struct stat st;
    /* Nobody but the system's administrator may look into /proc/<pid>/fd of a
     * process that is not dumpable. */
    if (prctl(PR_GET_DUMPABLE) != 1) {
        return false;
    }
    snprintf(path, size, "/proc/%ld/fd/%d", (long)getpid(), fd);
    return stat(path, &st) == 0;
}
