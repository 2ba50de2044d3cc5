/* Is this the file of a mapping, and may it be opened? */
#ifndef SAMEMAP_MAPPEDFILE_H
#define SAMEMAP_MAPPEDFILE_H

#include "os/descriptor.h"
#include "reach.h"

/* Other threads may run during all of these.
 *
 * Does `path` lead to the file? By its identity once that is known, by the map
 * table before; `entry` may be NULL. Sets *status. */
Match mappedfile_is_at(const Reach *reach, const Mapping *mapping,
                       const MapEntry *entry, const char *path,
                       FileStatus *status);

/* `path` leads to a regular file that this process has open. Sets *status. */
bool mappedfile_is_open_at(const char *path, FileStatus *status);

/* 0, or errno: the file at `path` can't be opened so. What an open has told
 * before (`opened`) may have been forbidden since. */
int mappedfile_try_open(const char *path, const FileId *id, bool writable,
                        bool opened);

/* Our descriptor still is one on the file: others may close all that a process
 * has (a daemon does), and then the number is somebody else's. */
bool mappedfile_has_descriptor(const Reach *reach, FileStatus *status);

/* A duplicate of a descriptor that the process has on the file, or -1: then
 * *reason may say more than it did. What the process has open is looked up
 * where that is due: once a message, and again for a file that was opened
 * since, as long as that is cheap. */
int mappedfile_find_descriptor(State *state, const Reach *reach,
                               const Mapping *mapping, const MapEntry *entry,
                               FileStatus *status, Reason *reason);

#endif
