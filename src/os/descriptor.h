/* How can another process reach the file that is mapped at an address? */
#ifndef SAMEMAP_DESCRIPTOR_H
#define SAMEMAP_DESCRIPTOR_H

#include "mapping.h"
#include "os/fileid.h"
#include "os/maptable.h"

typedef enum {
    MATCH_OTHER,    /* another file */
    MATCH_SAME,     /* the mapped one */
    MATCH_UNPROVEN, /* it may be the mapped one, or another */
} Match;

/* Is the file of `mapping`, which `entry` of the map table covers, the one with
 * status `status`, which `path` reaches? `fd` is open on it, or -1.
 *
 * Most file systems have one device and no inode number twice: there the
 * numbers of the map table decide. On btrfs a file and its snapshot have the
 * same numbers in the table, and on overlayfs a file keeps its numbers when it
 * is copied up, while the map stays on the old one: there only a page that both
 * have in common is a proof. */
Match descriptor_match(const Mapping *mapping, const MapEntry *entry,
                       const char *path, int fd, const FileStatus *status);

/* 0 when this process can open the regular file `id` at `path` so; else errno.
 * Asks by doing it: access() does not know of Landlock, nor that secret memory
 * can't be opened at all. access() decides where an open would cost the user
 * something: whoever closes a file gives up all his locks on it. */
int descriptor_try_open(const char *path, const FileId *id, bool writable);

/* The regular files that this process has open, by inode number. All zero: none
 * looked up yet. */
typedef struct {
    struct OpenFile {
        uint64_t ino;
        int fd;
    } *items;
    size_t count;
    size_t in_use; /* descriptors of any kind, and those kept since */
} OpenFiles;

/* Looks them all up: 0, or -1 with errno. */
int descriptor_scan(OpenFiles *files);
void descriptor_free(OpenFiles *files);

/* The first of the descriptors of inode `ino`, and in *count their number. What
 * they are open on may have changed since the scan. */
const struct OpenFile *descriptor_of_inode(const OpenFiles *files, uint64_t ino,
                                           size_t *count);

/* Descriptors are the user's: with one more than `in_use`, less than a quarter
 * of those that the process may have would be left to it. */
bool descriptor_is_scarce(size_t in_use);

/* A duplicate of `fd`, which must be open on the mapped file: the one with the
 * identity `id` if that is not NULL, or what is proven by `entry`. Sets
 * *status. -1 with errno: EBADF when it is another file, EAGAIN when that can't
 * be proven. */
int descriptor_keep(int fd, const Mapping *mapping, const MapEntry *entry,
                    const FileId *id, FileStatus *status);

/* Closes a duplicate on inode `ino`; not while the user has a lock on the file,
 * which would be gone. */
void descriptor_release(int fd, uint64_t ino);

/* A descriptor on the file `id`, opened by one that process `pid` has on it; -1
 * when it has none, or we may not look. Sets *status. */
int descriptor_open_of(long pid, const FileId *id, bool writable,
                       FileStatus *status);

/* A memfd that may not be mapped writable again. */
bool descriptor_is_sealed(int fd);

/* The path by which other processes of this user reach `fd`, into `path`.
 * False when they can't: no /proc, or this process is not dumpable. */
bool descriptor_path(int fd, char *path, size_t size);

#endif
