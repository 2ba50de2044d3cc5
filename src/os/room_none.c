/* Owns the answer of a system that doesn't tell. */
#include "os/room.h"

int64_t
room_in_memory(const char *root)
{
    (void)root;
    return INT64_MAX;
}

int64_t
room_in_file(int fd)
{
    (void)fd;
    return INT64_MAX;
}
