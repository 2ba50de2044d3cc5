/* How much more memory may be filled before the system refuses, or kills? */
#ifndef SAMEMAP_ROOM_H
#define SAMEMAP_ROOM_H

#include <stdint.h>

/* Bytes; INT64_MAX where nothing tells. `root` is the folder in which /proc and
 * /sys are: "" but for tests. */
int64_t room_in_memory(const char *root);

/* Bytes that the open file may have: what is free where it is, and
 * RLIMIT_FSIZE. */
int64_t room_in_file(int fd);

#endif
