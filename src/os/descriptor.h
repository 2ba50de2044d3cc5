/* How can another process reach the file that is mapped at an address? */
#ifndef SAMEMAP_DESCRIPTOR_H
#define SAMEMAP_DESCRIPTOR_H

#include "os/fileid.h"
#include "os/maptable.h"

/* The file of `entry` is the one with status `status`, which `path` reaches.
 * Device numbers in the map table are not those of stat on btrfs and
 * overlayfs: where only they differ, a page of `path` is mapped and looked up
 * in the table, so that like is compared with like. */
bool descriptor_matches(MapTable *table, const MapEntry *entry,
                        const char *path, const FileStatus *status);

/* A duplicate of a descriptor of this process that is open on the file of
 * `entry`; -1 when there is none. Sets *status. */
int descriptor_find(MapTable *table, const MapEntry *entry, FileStatus *status);

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
