/* Which file is this? Identity, size, and opening without surprises.
 *
 * Plain C as all of os/: errors are errno, and whoever holds Python's lock
 * releases it around these calls, which may wait for a disk or a server.
 */
#ifndef SAMEMAP_FILEID_H
#define SAMEMAP_FILEID_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* What tells one file from another for as long as somebody maps it. An inode
 * number alone can be used again; the birth time, where the file system
 * keeps one, differs then. The size is not part of it: files grow. */
typedef struct {
    uint64_t dev, ino;
    int64_t birth_sec; /* 0 and 0 where the file system has no birth time */
    uint32_t birth_nsec;
} FileId;

typedef struct {
    FileId id;
    int64_t size; /* bytes */
    bool regular;
} FileStatus;

/* Of the file that `path` leads to, or that is open as `fd`: 0, or -1 with
 * errno. */
int fileid_stat(const char *path, FileStatus *status);
int fileid_fstat(int fd, FileStatus *status);

/* Opens a regular file and nothing else: returns the descriptor, or -1 with
 * errno; EINVAL when it is something else. Never waits (a FIFO), never takes
 * a terminal, never creates; a device is not opened at all. */
int fileid_open(const char *path, bool writable, FileStatus *status);

/* 0 when the process may open the file so, else errno (with the effective
 * user, as open itself would decide). */
int fileid_access(const char *path, bool writable);

/* This process has the file open; false as well where the system doesn't list
 * descriptors. */
bool fileid_is_open(const FileId *id);

bool fileid_equal(const FileId *a, const FileId *b);

/* "device 8:1, inode 42, born 2026-01-01T00:00:00.000000000Z" and NUL; this
 * many bytes are always enough. */
#define FILEID_TEXT_SIZE 160
void fileid_format(const FileId *id, char text[FILEID_TEXT_SIZE]);

/* The device's number as people write it; for fileid_format. */
void fileid_format_device(uint64_t dev, char *text, size_t size);

#endif
