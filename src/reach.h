/* Which file is mapped there, and how does another process reach it? */
#ifndef SAMEMAP_REACH_H
#define SAMEMAP_REACH_H

#include "mapping.h"
#include "os/fileid.h"
#include "state.h"

/* The kind of way that a path is. */
typedef enum {
    ROUTE_NONE,       /* no path is known */
    ROUTE_PATH,       /* a name in the file system */
    ROUTE_DESCRIPTOR, /* a descriptor that a process has open on the file */
    ROUTE_TEMPORARY,  /* a name, of a file that joblib deletes after the call */
} Route;

/* Writer: reach.c. Invariant: while `reason` is NONE, `path` led to the file
 * `id` at the last check, and that was as long as the map. */
typedef struct {
    FileId id; /* for life: no other file is ever taken for the mapped one */
    bool has_id;
    Route route;    /* what `path` is; whether it leads there, `reason` says */
    Reason reason;  /* why the file can't be referenced; NONE: it can */
    PyObject *path; /* owned bytes: what a receiver opens, or NULL */
    int fd;         /* our duplicate of a descriptor on the file, which then
                     * has an id; or -1 */
    long pid;       /* of the process that mapped it first */
    uint64_t checked; /* number of the message in which it was last checked */
    /* The map table's numbers of the file, and the message in which it was
     * last asked for them. 0: no file. */
    uint64_t map_inode;
    uint32_t map_major, map_minor;
    uint64_t map_name; /* hash of the path that the table had for it */
    uint64_t located;
    bool opened;  /* `path` was opened once, with the access of the map */
    bool rounded; /* the map's length is that of its pages, of which the file
                   * may fill the last one partly; false once that is known */
} Reach;

/* One of these four first, on zeroed memory. Where a length is returned, it is
 * the bytes of the map that the file fills; -1 with an exception: the file has
 * become shorter than the map.
 *
 * The file that the map table shows in `entry`, which covers the map. */
intptr_t reach_from_entry(State *state, Reach *reach, const Mapping *mapping,
                          const MapEntry *entry, bool rounded);
/* Without a map table: what np.memmap knows of itself. */
intptr_t reach_from_path(State *state, Reach *reach, const Mapping *mapping,
                         const char *path);
/* What a message has named; `path` is bytes. */
void reach_from_message(Reach *reach, const FileId *id, PyObject *path,
                        long pid);
/* Memory that no file can be found for, and why. */
void reach_from_nothing(Reach *reach, Reason reason);

void reach_clear(Reach *reach);

/* Something may have changed since: call reach_check. */
static inline bool
reach_is_due(const Reach *reach, uint64_t message)
{
    return reach->checked != message &&
           (reach->path != NULL || reach->reason == REASON_NONE);
}

/* Sets how a receiver reaches the file, or why it can't, as of now. Returns a
 * length as above. Other threads may run meanwhile. */
intptr_t reach_check(State *state, Reach *reach, const Mapping *mapping,
                     uint64_t message);

/* The next check is due whatever the message's number. */
void reach_expire(Reach *reach);

/* The map table was asked for the memory in that message. */
void reach_set_located(Reach *reach, uint64_t message);

/* `entry`, found at the map's memory, is what it has been made of: nothing else
 * was mapped there since. */
bool reach_shows(const Reach *reach, const Mapping *mapping,
                 const MapEntry *entry);

/* The path, or what is known of it, for people. Borrowed. */
const char *reach_path(const Reach *reach);

/* What kind of way `path` is: the one place that looks at its name. */
Route reach_route_of(const char *path);

#endif
