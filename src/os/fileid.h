/* Which file is this? Identity, size, and opening without surprises. */
#ifndef SAMEMAP_FILEID_H
#define SAMEMAP_FILEID_H

#include "core.h"

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

/* All three: 0, or -1 with errno set and no exception. They call the system
 * with the GIL released, so the caller must hold references, not borrow. */
int fileid_stat(const char *path, FileStatus *status);
int fileid_fstat(int fd, FileStatus *status);

/* Opens a regular file and nothing else: returns the descriptor, or -1 with
 * errno; EINVAL when it is something else. Never waits (a FIFO), never takes
 * a terminal, never creates; a device is not opened at all. */
int fileid_open(const char *path, bool writable, FileStatus *status);

/* 0 when the process may open the file so, else errno (with the effective
 * user, as open itself would decide). */
int fileid_access(const char *path, bool writable);

bool fileid_equal(const FileId *a, const FileId *b);

/* The identity as bytes for a message, and back: 0, or -1 with ValueError or
 * TypeError. */
PyObject *fileid_encode(const FileId *id);
int fileid_decode(PyObject *py_id, FileId *id);

/* "device 8:1, inode 42, born 2026-01-01T00:00:00.000000000Z" (str). */
PyObject *fileid_format(const FileId *id);

#endif
