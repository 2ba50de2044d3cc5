/* Owns the ways to a mapped file other than trusting its name: /proc shows the
 * descriptors of this process, and of others of the same user.
 */
#include "os/descriptor.h"

#include "os/pagemap.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <linux/magic.h>
#include <sys/stat.h>
#include <unistd.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/statfs.h>

/* F_SEAL_FUTURE_WRITE of Linux 5.1, which older headers don't have. */
#define SEAL_FUTURE_WRITE 0x0010

static bool
is_overlay(const char *path)
{
    struct statfs fs;
    return statfs(path, &fs) < 0 || fs.f_type == OVERLAYFS_SUPER_MAGIC;
}

/* This process has a POSIX lock on an inode of that number, or may have one:
 * the system does not tell. (Locks of other kinds belong to a descriptor.) */
static bool
is_locked(uint64_t ino)
{
    char text[4096 + 1];
    size_t size = 0;
    ssize_t n;
    bool locked = false;
    const long self = (long)getpid();
    int fd = open("/proc/locks", O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        return true;
    }
    while (!locked &&
           (n = read(fd, text + size, sizeof(text) - 1 - size)) > 0) {
        char *line = text, *end;
        size += (size_t)n;
        text[size] = '\0';
        for (; (end = strchr(line, '\n')) != NULL; line = end + 1) {
            long pid;
            uint64_t inode;
            locked |= sscanf(line, "%*s POSIX %*s %*s %ld %*x:%*x:%" SCNu64,
                             &pid, &inode) == 2 &&
                      pid == self && inode == ino;
        }
        /* The rest of a line comes with the next part. */
        size -= (size_t)(line - text);
        memmove(text, line, size);
    }
    close(fd);
    return locked || n < 0;
}

/* By a page. `status` was read before, and must hold afterwards: else the file
 * was copied up meanwhile, and the page was the old one's. */
static Match
match_page(const Mapping *mapping, const char *path, int fd,
           const FileStatus *status)
{
    FileStatus after;
    uintptr_t low = (uintptr_t)mapping->start;
    int opened = -1;
    if (fd < 0) {
        if (is_locked(status->id.ino)) {
            return MATCH_UNPROVEN;
        }
        fd = opened = fileid_open(path, false, &after);
    }
    if (fd < 0) {
        return MATCH_UNPROVEN;
    }
    int same = pagemap_shows(low, low + (uintptr_t)mapping->length,
                             mapping->file_offset, fd);
    if (fileid_fstat(fd, &after) < 0 || !fileid_equal(&after.id, &status->id)) {
        same = 0;
    }
    if (opened >= 0) {
        close(opened);
    }
    return same > 0 ? MATCH_SAME : same == 0 ? MATCH_OTHER : MATCH_UNPROVEN;
}

Match
descriptor_match(const Mapping *mapping, const MapEntry *entry,
                 const char *path, int fd, const FileStatus *status)
{
    if (!status->regular || status->id.ino != entry->inode) {
        return MATCH_OTHER;
    }
    bool overlay = is_overlay(path);
    /* Who maps a file to write into it has opened it for that: it had been
     * copied up before, and never is again. */
    if (status->id.dev == maptable_device(entry) &&
        (!overlay || mapping_writes_through(mapping))) {
        return MATCH_SAME;
    }
    if (overlay && status->id.birth_sec == 0) {
        return MATCH_UNPROVEN; /* nothing would tell that it was copied up */
    }
    /* There an open descriptor goes on showing the old file, while all that a
     * receiver can open is the new one. */
    return match_page(mapping, path, overlay ? -1 : fd, status);
}

int
descriptor_try_open(const char *path, const FileId *id, bool writable)
{
    const int flags = O_CLOEXEC | O_NONBLOCK | O_NOCTTY;
    if (is_locked(id->ino)) {
        return fileid_access(path, writable);
    }
    int fd = open(path, (writable ? O_RDWR : O_RDONLY) | flags);
    if (fd < 0) {
        bool few = errno == EMFILE || errno == ENFILE || errno == ENOMEM;
        return few ? fileid_access(path, writable) : errno;
    }
    close(fd);
    return 0;
}

/* The number that a name in /proc/<pid>/fd is, or -1 ("."). */
static int
parse_fd(const char *name)
{
    char *end;
    long fd = strtol(name, &end, 10);
    return end != name && *end == '\0' && fd <= INT_MAX ? (int)fd : -1;
}

static int
compare(const void *a, const void *b)
{
    const struct OpenFile *x = a, *y = b;
    return x->ino != y->ino ? (x->ino > y->ino) - (x->ino < y->ino)
                            : (x->fd > y->fd) - (x->fd < y->fd);
}

int
descriptor_scan(OpenFiles *files)
{
    size_t room = 0;
    *files = (OpenFiles){NULL, 0, 0};
    DIR *directory = opendir("/proc/self/fd");
    if (directory == NULL) {
        return -1;
    }
    for (struct dirent *item; (item = readdir(directory)) != NULL;) {
        FileStatus status;
        int fd = parse_fd(item->d_name);
        files->in_use += fd >= 0;
        if (fd < 0 || fileid_fstat(fd, &status) < 0 || !status.regular) {
            continue;
        }
        if (files->count == room) {
            room = room > 0 ? 2 * room : 64;
            void *larger = realloc(files->items, room * sizeof(*files->items));
            if (larger == NULL) {
                closedir(directory);
                descriptor_free(files);
                errno = ENOMEM;
                return -1;
            }
            files->items = larger;
        }
        files->items[files->count++] = (struct OpenFile){status.id.ino, fd};
    }
    closedir(directory);
    if (files->count > 0) {
        qsort(files->items, files->count, sizeof(*files->items), compare);
    }
    return 0;
}

void
descriptor_free(OpenFiles *files)
{
    free(files->items);
    *files = (OpenFiles){NULL, 0, 0};
}

const struct OpenFile *
descriptor_of_inode(const OpenFiles *files, uint64_t ino, size_t *count)
{
    size_t low = 0, high = files->count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (files->items[middle].ino < ino) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    while (high < files->count && files->items[high].ino == ino) {
        high++;
    }
    *count = high - low;
    return high > low ? files->items + low : NULL;
}

bool
descriptor_is_scarce(size_t in_use)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) < 0 ||
        limit.rlim_cur == RLIM_INFINITY) {
        return false;
    }
    return in_use + 1 > limit.rlim_cur - limit.rlim_cur / 4;
}

/* As descriptor_keep, but what it is about may change: 0 or errno. */
static int
check_descriptor(int fd, const Mapping *mapping, const MapEntry *entry,
                 const FileId *id, FileStatus *status)
{
    char path[64];
    if (fileid_fstat(fd, status) < 0 || !status->regular) {
        return EBADF;
    }
    if (id != NULL) {
        return fileid_equal(&status->id, id) ? 0 : EBADF;
    }
    snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    switch (descriptor_match(mapping, entry, path, fd, status)) {
    case MATCH_SAME:
        return 0;
    case MATCH_UNPROVEN:
        return EAGAIN;
    default:
        return EBADF;
    }
}

int
descriptor_keep(int fd, const Mapping *mapping, const MapEntry *entry,
                const FileId *id, FileStatus *status)
{
    FileStatus kept_status;
    int error = check_descriptor(fd, mapping, entry, id, status);
    if (error != 0) {
        errno = error;
        return -1;
    }
    int kept = fcntl(fd, F_DUPFD_CLOEXEC, 3);
    /* Another thread may have closed and reused the number since. */
    if (kept >= 0 && (fileid_fstat(kept, &kept_status) < 0 ||
                      !fileid_equal(&kept_status.id, &status->id))) {
        close(kept);
        errno = EBADF;
        return -1;
    }
    return kept;
}

void
descriptor_release(int fd, uint64_t ino)
{
    if (!is_locked(ino)) {
        close(fd);
    }
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
