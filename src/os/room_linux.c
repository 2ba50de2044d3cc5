/* Owns the estimate of the memory that is left. The kernel has no one number
 * for it: the whole machine, each control group above this process (two
 * versions of them), and strict overcommitment have limits of their own, and
 * beyond a group's the process is killed without an error.
 */
#include "os/room.h"

#include "os/textfile.h"

#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/statvfs.h>

#define PATH_SIZE (PATH_MAX + 128)

static int64_t
least(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static int64_t
room_of_machine(const char *root)
{
    char path[PATH_SIZE], text[TEXTFILE_SIZE], mode[TEXTFILE_SIZE];
    snprintf(path, sizeof(path), "%s/proc/meminfo", root);
    if (!textfile_read(path, text)) {
        return INT64_MAX;
    }
    int64_t available = textfile_number(text, "MemAvailable:");
    int64_t limit = textfile_number(text, "CommitLimit:");
    int64_t committed = textfile_number(text, "Committed_AS:");
    int64_t room = available >= 0 ? available * 1024 : INT64_MAX;
    snprintf(path, sizeof(path), "%s/proc/sys/vm/overcommit_memory", root);
    if (limit >= 0 && committed >= 0 && textfile_read(path, mode) &&
        mode[0] == '2') {
        room = least(room, limit > committed ? (limit - committed) * 1024 : 0);
    }
    return room;
}

/* How the two versions of control groups name the same things. */
typedef struct {
    const char *folder;   /* where they are mounted */
    const char *limit;    /* bytes, or "max" */
    const char *used;     /* bytes */
    const char *inactive; /* line in memory.stat: file pages that are given up
                           * before anybody is killed */
} Version;

static const Version versions[] = {
    {"/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes",
     "total_inactive_file "},
    {"/sys/fs/cgroup", "memory.max", "memory.current", "inactive_file "},
};

/* What one group leaves; INT64_MAX if it has no limit, or isn't there. */
static int64_t
room_of_group(const char *folder, const Version *version)
{
    char path[2 * PATH_SIZE], text[TEXTFILE_SIZE];
    snprintf(path, sizeof(path), "%s/%s", folder, version->limit);
    if (!textfile_read(path, text) || text[0] < '0' || text[0] > '9') {
        return INT64_MAX;
    }
    int64_t limit = strtoll(text, NULL, 10);
    snprintf(path, sizeof(path), "%s/%s", folder, version->used);
    if (!textfile_read(path, text)) {
        return INT64_MAX;
    }
    int64_t room = limit - strtoll(text, NULL, 10);
    snprintf(path, sizeof(path), "%s/memory.stat", folder);
    if (textfile_read(path, text)) {
        int64_t inactive = textfile_number(text, version->inactive);
        room += inactive > 0 ? inactive : 0;
    }
    return room > 0 ? room : 0;
}

/* Of the group `name` and all above it. In a container the name may be one of
 * outside: then only the topmost, which is the container's, is found. */
static int64_t
room_of_groups(const char *root, const Version *version, const char *name)
{
    char folder[PATH_SIZE];
    int64_t room = INT64_MAX;
    int top = snprintf(folder, sizeof(folder), "%s%s", root, version->folder);
    int length =
        snprintf(folder + top, sizeof(folder) - (size_t)top, "%s", name);
    if (length < 0 || (size_t)(top + length) >= sizeof(folder)) {
        folder[top] = '\0';
    }
    for (;;) {
        room = least(room, room_of_group(folder, version));
        char *slash = strrchr(folder + top, '/');
        if (slash == NULL) {
            return room;
        }
        *slash = '\0';
    }
}

/* Of the line "number:controllers:name" in /proc/self/cgroup. */
static int64_t
room_of_line(const char *root, char *line)
{
    char *controllers = strchr(line, ':');
    char *name = controllers != NULL ? strchr(controllers + 1, ':') : NULL;
    if (name == NULL) {
        return INT64_MAX;
    }
    *name++ = '\0';
    controllers++;
    if (*controllers == '\0') {
        return room_of_groups(root, &versions[1], name);
    }
    char *rest = NULL;
    for (char *each = strtok_r(controllers, ",", &rest); each != NULL;
         each = strtok_r(NULL, ",", &rest)) {
        if (strcmp(each, "memory") == 0) {
            return room_of_groups(root, &versions[0], name);
        }
    }
    return INT64_MAX;
}

int64_t
room_in_memory(const char *root)
{
    char path[PATH_SIZE], text[TEXTFILE_SIZE], *rest = NULL;
    int64_t room = room_of_machine(root);
    snprintf(path, sizeof(path), "%s/proc/self/cgroup", root);
    if (!textfile_read(path, text)) {
        return room;
    }
    for (char *line = strtok_r(text, "\n", &rest); line != NULL;
         line = strtok_r(NULL, "\n", &rest)) {
        room = least(room, room_of_line(root, line));
    }
    return room;
}

int64_t
room_in_file(int fd)
{
    struct rlimit limit;
    struct statvfs status;
    int64_t room = INT64_MAX;
    if (getrlimit(RLIMIT_FSIZE, &limit) == 0 && limit.rlim_cur < INT64_MAX) {
        room = (int64_t)limit.rlim_cur;
    }
    /* Without blocks it has no limit (memfd, a tmpfs of size=0). */
    if (fstatvfs(fd, &status) == 0 && status.f_blocks > 0) {
        int64_t free_bytes;
        if (!__builtin_mul_overflow((int64_t)status.f_bavail,
                                    (int64_t)status.f_frsize, &free_bytes)) {
            room = least(room, free_bytes);
        }
    }
    return room;
}
