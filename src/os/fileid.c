/* Owns the identity of files: what it consists of and how it is read. */
#include "os/fileid.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#ifdef __linux__
#include <sys/sysmacros.h>
#endif

#define ENCODED_SIZE 28

/* Either a path (fd is AT_FDCWD) or, with an empty path, a descriptor. */
static int
get_status(int fd, const char *path, FileStatus *status)
{
#ifdef STATX_BTIME
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
#else
    struct stat st;
    if ((*path == '\0' ? fstat(fd, &st) : stat(path, &st)) < 0) {
        return -1;
    }
    status->id.dev = (uint64_t)st.st_dev;
    status->id.ino = (uint64_t)st.st_ino;
    status->id.birth_sec = 0;
    status->id.birth_nsec = 0;
    status->size = (int64_t)st.st_size;
    status->regular = S_ISREG(st.st_mode);
#endif
    return 0;
}

int
fileid_stat(const char *path, FileStatus *status)
{
    int result;
    if (*path == '\0') {
        errno = ENOENT;
        return -1;
    }
    Py_BEGIN_ALLOW_THREADS
    result = get_status(AT_FDCWD, path, status);
    Py_END_ALLOW_THREADS
    return result;
}

int
fileid_fstat(int fd, FileStatus *status)
{
    int result;
    Py_BEGIN_ALLOW_THREADS
    result = get_status(fd, "", status);
    Py_END_ALLOW_THREADS
    return result;
}

int
fileid_open(const char *path, bool writable, FileStatus *status)
{
    int fd = -1, error = 0;
    int flags =
        (writable ? O_RDWR : O_RDONLY) | O_CLOEXEC | O_NONBLOCK | O_NOCTTY;
    Py_BEGIN_ALLOW_THREADS
    /* Opening a device can have an effect by itself (a tape rewinds): look
     * before the open, and again after it in case the path has changed. */
    if (get_status(AT_FDCWD, path, status) < 0) {
        error = errno;
    } else if (!status->regular) {
        error = EINVAL;
    } else if ((fd = open(path, flags)) < 0) {
        error = errno;
    } else if (get_status(fd, "", status) < 0) {
        error = errno;
    } else if (!status->regular) {
        error = EINVAL;
    }
    if (error != 0 && fd >= 0) {
        close(fd);
        fd = -1;
    }
    Py_END_ALLOW_THREADS
    errno = error;
    return fd;
}

int
fileid_access(const char *path, bool writable)
{
    int result;
    Py_BEGIN_ALLOW_THREADS
    result =
        faccessat(AT_FDCWD, path, writable ? R_OK | W_OK : R_OK, AT_EACCESS);
    Py_END_ALLOW_THREADS
    return result < 0 ? errno : 0;
}

bool
fileid_equal(const FileId *a, const FileId *b)
{
    return a->dev == b->dev && a->ino == b->ino &&
           a->birth_sec == b->birth_sec && a->birth_nsec == b->birth_nsec;
}

PyObject *
fileid_encode(const FileId *id)
{
    char buffer[ENCODED_SIZE];
    memcpy(buffer, &id->dev, 8);
    memcpy(buffer + 8, &id->ino, 8);
    memcpy(buffer + 16, &id->birth_sec, 8);
    memcpy(buffer + 24, &id->birth_nsec, 4);
    return PyBytes_FromStringAndSize(buffer, ENCODED_SIZE);
}

int
fileid_decode(PyObject *py_id, FileId *id)
{
    char *buffer;
    Py_ssize_t size;
    if (!PyBytes_CheckExact(py_id)) {
        PyErr_Format(PyExc_TypeError, "file identity must be bytes, not %R",
                     (PyObject *)Py_TYPE(py_id));
        return -1;
    }
    if (PyBytes_AsStringAndSize(py_id, &buffer, &size) < 0) {
        return -1;
    }
    if (size != ENCODED_SIZE) {
        PyErr_Format(PyExc_ValueError, "damaged file identity: %R", py_id);
        return -1;
    }
    memcpy(&id->dev, buffer, 8);
    memcpy(&id->ino, buffer + 8, 8);
    memcpy(&id->birth_sec, buffer + 16, 8);
    memcpy(&id->birth_nsec, buffer + 24, 4);
    return 0;
}

PyObject *
fileid_format(const FileId *id)
{
    char birth[64] = "";
    time_t seconds = (time_t)id->birth_sec;
    struct tm when;
    if (seconds != 0 && gmtime_r(&seconds, &when) != NULL) {
        char clock[32];
        strftime(clock, sizeof(clock), "%Y-%m-%dT%H:%M:%S", &when);
        PyOS_snprintf(birth, sizeof(birth), ", born %s.%09uZ", clock,
                      (unsigned)id->birth_nsec);
    }
#ifdef __linux__
    return PyUnicode_FromFormat(
        "device %u:%u, inode %llu%s", (unsigned)major(id->dev),
        (unsigned)minor(id->dev), (unsigned long long)id->ino, birth);
#else
    return PyUnicode_FromFormat("device %llu, inode %llu%s",
                                (unsigned long long)id->dev,
                                (unsigned long long)id->ino, birth);
#endif
}
