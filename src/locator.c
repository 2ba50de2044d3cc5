/* Owns the ways to a mapped file other than trusting its name. */
#include "locator.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#ifdef __linux__
#include <sys/prctl.h>
#include <sys/sysmacros.h>
#endif

static bool
same_device(const MapEntry *entry, const FileStatus *status)
{
    return status->id.dev == makedev(entry->dev_major, entry->dev_minor);
}

/* What the map table says of a page of the file at `path`. */
static bool
probe(State *state, const MapEntry *entry, const char *path)
{
    FileStatus status;
    const size_t page = (size_t)sysconf(_SC_PAGESIZE);
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
        same = maptable_find(&state->maptable, low, low + page, &other) == 1 &&
               maptable_same_file(entry, &other);
        munmap(address, page);
    }
    return same;
}

bool
locator_matches(State *state, const MapEntry *entry, const char *path,
                const FileStatus *status)
{
    if (!status->regular || status->id.ino != entry->inode) {
        return false;
    }
    return same_device(entry, status) || probe(state, entry, path);
}

int
locator_find_fd(State *state, const MapEntry *entry, FileStatus *status)
{
    int found = -1;
    DIR *directory = opendir("/proc/self/fd");
    if (directory == NULL) {
        return -1;
    }
    for (struct dirent *item; (item = readdir(directory)) != NULL;) {
        char *end, path[64];
        long fd = strtol(item->d_name, &end, 10);
        if (end == item->d_name || *end != '\0' ||
            fileid_fstat((int)fd, status) < 0) {
            continue;
        }
        snprintf(path, sizeof(path), "/proc/self/fd/%ld", fd);
        if (!locator_matches(state, entry, path, status)) {
            continue;
        }
        found = fcntl((int)fd, F_DUPFD_CLOEXEC, 3);
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

bool
locator_of_fd(int fd, char *path, size_t size)
{
    struct stat st;
#ifdef __linux__
    /* Nobody but the system's administrator may look into /proc/<pid>/fd of a
     * process that is not dumpable. */
    if (prctl(PR_GET_DUMPABLE) != 1) {
        return false;
    }
#endif
    snprintf(path, size, "/proc/%ld/fd/%d", (long)getpid(), fd);
    return stat(path, &st) == 0;
}
