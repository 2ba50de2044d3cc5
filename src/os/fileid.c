/* Owns what is the same for files on every POSIX system: careful opening, and
 * what an identity is; the system's own files read it.
 */
#include "os/fileid.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

int
fileid_open(const char *path, bool writable, FileStatus *status)
{
    int fd = -1, error = 0;
    int flags =
        (writable ? O_RDWR : O_RDONLY) | O_CLOEXEC | O_NONBLOCK | O_NOCTTY;
    /* Opening a device can have an effect by itself (a tape rewinds): look
     * before the open, and again after it in case the path has changed. */
    if (fileid_stat(path, status) < 0) {
        error = errno;
    } else if (!status->regular) {
        error = EINVAL;
    } else if ((fd = open(path, flags)) < 0) {
        error = errno;
    } else if (fileid_fstat(fd, status) < 0) {
        error = errno;
    } else if (!status->regular) {
        error = EINVAL;
    }
    if (error != 0 && fd >= 0) {
        close(fd);
        fd = -1;
    }
    errno = error;
    return fd;
}

int
fileid_access(const char *path, bool writable)
{
    int mode = writable ? R_OK | W_OK : R_OK;
    return faccessat(AT_FDCWD, path, mode, AT_EACCESS) < 0 ? errno : 0;
}

bool
fileid_is_open(const FileId *id)
{
    bool found = false;
    DIR *directory = opendir("/dev/fd");
    if (directory == NULL) {
        return false;
    }
    for (struct dirent *item; !found && (item = readdir(directory)) != NULL;) {
        FileStatus status;
        char *end;
        long fd = strtol(item->d_name, &end, 10);
        found = end != item->d_name && *end == '\0' &&
                fileid_fstat((int)fd, &status) == 0 &&
                fileid_equal(&status.id, id);
    }
    closedir(directory);
    return found;
}

bool
fileid_equal(const FileId *a, const FileId *b)
{
    return a->dev == b->dev && a->ino == b->ino &&
           a->birth_sec == b->birth_sec && a->birth_nsec == b->birth_nsec;
}

void
fileid_format(const FileId *id, char text[FILEID_TEXT_SIZE])
{
    char device[32], birth[64] = "";
    time_t seconds = (time_t)id->birth_sec;
    struct tm when;
    if (seconds != 0 && gmtime_r(&seconds, &when) != NULL) {
        char day[32];
        strftime(day, sizeof(day), "%Y-%m-%dT%H:%M:%S", &when);
        snprintf(birth, sizeof(birth), ", born %s.%09uZ", day,
                 (unsigned)id->birth_nsec);
    }
    fileid_format_device(id->dev, device, sizeof(device));
    snprintf(text, FILEID_TEXT_SIZE, "device %s, inode %llu%s", device,
             (unsigned long long)id->ino, birth);
}
