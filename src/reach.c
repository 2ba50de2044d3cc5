/* Owns how the file of a mapping is reached, and whether it can be.
 *
 * Waiting for the system happens without the GIL, so another thread may change
 * a Reach at every such call; what is written here in one go is written after
 * the last of them.
 */
#include "reach.h"

#include "errors.h"
#include "os/descriptor.h"

#include <string.h>
#include <unistd.h>

/* joblib's temporary files are in folders of this name, for every user. */
#define JOBLIB_FOLDER "joblib_memmapping_folder_"

static int
stat_path(const char *path, FileStatus *status)
{
    int result;
    Py_BEGIN_ALLOW_THREADS
    result = fileid_stat(path, status);
    Py_END_ALLOW_THREADS
    return result;
}

static bool
may_open(const char *path, bool writable)
{
    int error;
    Py_BEGIN_ALLOW_THREADS
    error = fileid_access(path, writable);
    Py_END_ALLOW_THREADS
    return error == 0;
}

/* Our descriptor still is one on the file: others may close all that a process
 * has (a daemon does), and then the number is somebody else's. */
static bool
has_descriptor(const Reach *reach, FileStatus *status)
{
    int result;
    if (reach->fd < 0) {
        return false;
    }
    Py_BEGIN_ALLOW_THREADS
    result = fileid_fstat(reach->fd, status);
    Py_END_ALLOW_THREADS
    return result == 0 && fileid_equal(&status->id, &reach->id);
}

static bool
matches(State *state, const MapEntry *entry, const char *path,
        const FileStatus *status)
{
    bool same;
    MapTable table = maptable_like(&state->maptable);
    Py_BEGIN_ALLOW_THREADS
    same = descriptor_matches(&table, entry, path, status);
    maptable_close(&table);
    Py_END_ALLOW_THREADS
    return same;
}

static int
find_descriptor(State *state, const MapEntry *entry, FileStatus *status)
{
    int fd;
    MapTable table = maptable_like(&state->maptable);
    Py_BEGIN_ALLOW_THREADS
    fd = descriptor_find(&table, entry, status);
    maptable_close(&table);
    Py_END_ALLOW_THREADS
    return fd;
}

const char *
reach_path(const Reach *reach)
{
    return reach->path != NULL ? PyBytes_AsString(reach->path) : "";
}

Route
reach_route_of(const char *path)
{
    const char *last = strrchr(path, '/');
    if (last == NULL) {
        return *path != '\0' ? ROUTE_PATH : ROUTE_NONE;
    }
    if (strncmp(path, "/proc/", 6) == 0) {
        return ROUTE_DESCRIPTOR;
    }
    const char *folder = last;
    while (folder > path && folder[-1] != '/') {
        folder--;
    }
    return strncmp(folder, JOBLIB_FOLDER, strlen(JOBLIB_FOLDER)) == 0
               ? ROUTE_TEMPORARY
               : ROUTE_PATH;
}

static int
set_path(Reach *reach, const char *path)
{
    if (reach->path != NULL &&
        strcmp(PyBytes_AsString(reach->path), path) == 0) {
        return 0;
    }
    PyObject *py_path = PyBytes_FromString(path);
    if (py_path == NULL) {
        return -1;
    }
    reach->route = reach_route_of(path);
    core_set(&reach->path, py_path);
    return 0;
}

/* `path` leads to the mapped file: by its identity once that is known, by the
 * map table before. */
static bool
leads_to_file(State *state, const Reach *reach, const MapEntry *entry,
              const char *path, FileStatus *status)
{
    if (stat_path(path, status) < 0 || !status->regular) {
        return false;
    }
    if (reach->has_id) {
        return fileid_equal(&status->id, &reach->id);
    }
    return entry != NULL && matches(state, entry, path, status);
}

/* Takes `path` as the way to the file, if the file is long enough and may be
 * opened as it is mapped. A length, or -1 with an exception. */
static intptr_t
accept_path(State *state, Reach *reach, const Mapping *mapping,
            const char *path, const FileStatus *status)
{
    bool writable = mapping_writes_through(mapping);
    bool allowed = may_open(path, writable) &&
                   !(writable && descriptor_is_sealed(reach->fd));
    intptr_t length = mapping->length;
    int64_t start = (int64_t)mapping->file_offset, end;
    reach->id = status->id;
    reach->has_id = true;
    if (reach->rounded && status->size > start) {
        if (status->size - start < length) {
            length = (intptr_t)(status->size - start);
        }
        reach->rounded = false;
    }
    if (__builtin_add_overflow(start, length, &end) || status->size < end) {
        errors_set_truncated(state, path, end, status->size);
        return -1;
    }
    reach->reason = allowed ? REASON_NONE : REASON_FORBIDDEN;
    return set_path(reach, path) < 0 ? -1 : length;
}

/* 1 and *entry when the map table tells what is mapped there. */
static int
look_up(State *state, const Mapping *mapping, MapEntry *entry)
{
    uintptr_t low = (uintptr_t)mapping->start;
    return maptable_find(&state->maptable, low,
                         low + (uintptr_t)mapping->length, entry);
}

/* A descriptor of ours on the file, old or new; false when there is none. */
static bool
keep_descriptor(State *state, Reach *reach, const MapEntry *entry,
                FileStatus *status)
{
    FileStatus other;
    if (has_descriptor(reach, status)) {
        return true;
    }
    int fd = find_descriptor(state, entry, status);
    if (!has_descriptor(reach, &other)) {
        reach->fd = fd;
        if (fd >= 0) {
            reach->id = status->id;
            reach->has_id = true;
        }
    } else if (fd >= 0) { /* another thread was here meanwhile */
        close(fd);
    }
    return has_descriptor(reach, status);
}

/* The path of last time (or the one in a fresh `entry`) no longer leads to the
 * file: follow a rename, else use a descriptor. A length, or -1. */
static intptr_t
search(State *state, Reach *reach, const Mapping *mapping,
       const MapEntry *entry)
{
    FileStatus status;
    MapEntry now;
    char path[64];

    if (leads_to_file(state, reach, entry, entry->path, &status)) {
        return accept_path(state, reach, mapping, entry->path, &status);
    }
    if (look_up(state, mapping, &now) == 1 &&
        leads_to_file(state, reach, &now, now.path, &status)) {
        return accept_path(state, reach, mapping, now.path, &status);
    }
    if (keep_descriptor(state, reach, entry, &status) &&
        descriptor_path(reach->fd, path, sizeof(path))) {
        return accept_path(state, reach, mapping, path, &status);
    }
    reach->reason = REASON_UNREACHABLE;
    return set_path(reach, entry->path) < 0 ? -1 : mapping->length;
}

static void
init(Reach *reach)
{
    reach->fd = -1;
    reach->pid = (long)getpid();
}

intptr_t
reach_from_entry(State *state, Reach *reach, const Mapping *mapping,
                 const MapEntry *entry, bool rounded)
{
    init(reach);
    reach->rounded = rounded;
    reach->map_inode = entry->inode;
    reach->map_major = entry->dev_major;
    reach->map_minor = entry->dev_minor;
    return search(state, reach, mapping, entry);
}

intptr_t
reach_from_path(State *state, Reach *reach, const Mapping *mapping,
                const char *path)
{
    FileStatus status;
    init(reach);
    if (stat_path(path, &status) < 0 || !status.regular) {
        reach->reason = REASON_UNREACHABLE;
        return mapping->length;
    }
    return accept_path(state, reach, mapping, path, &status);
}

void
reach_from_message(Reach *reach, const FileId *id, PyObject *path, long pid)
{
    init(reach);
    reach->id = *id;
    reach->has_id = true;
    reach->path = Py_NewRef(path);
    reach->route = reach_route_of(PyBytes_AsString(path));
    reach->pid = pid;
}

void
reach_from_nothing(Reach *reach, Reason reason)
{
    init(reach);
    reach->reason = reason;
}

void
reach_clear(Reach *reach)
{
    FileStatus status;
    Py_CLEAR(reach->path);
    if (has_descriptor(reach, &status)) {
        close(reach->fd);
    }
    reach->fd = -1;
}

intptr_t
reach_check(State *state, Reach *reach, const Mapping *mapping,
            uint64_t message)
{
    FileStatus status;
    MapEntry entry;
    intptr_t length;
    /* Held: another thread may find another way to the file meanwhile. */
    PyObject *py_path = Py_XNewRef(reach->path);
    const char *path = py_path != NULL ? PyBytes_AsString(py_path) : "";

    reach->checked = 0;
    if (leads_to_file(state, reach, NULL, path, &status)) {
        length = accept_path(state, reach, mapping, path, &status);
    } else if (look_up(state, mapping, &entry) == 1) {
        length = search(state, reach, mapping, &entry);
    } else {
        reach->reason = REASON_UNREACHABLE;
        length = mapping->length;
    }
    Py_XDECREF(py_path);
    if (length >= 0) {
        reach->checked = message;
    }
    return length;
}

void
reach_expire(Reach *reach)
{
    reach->checked = 0;
}

void
reach_set_located(Reach *reach, uint64_t message)
{
    reach->located = message;
}

bool
reach_shows(const Reach *reach, const Mapping *mapping, const MapEntry *entry)
{
    uint64_t before = (uint64_t)(mapping->start - (char *)entry->start);
    return mapping->start >= (char *)entry->start &&
           reach->map_inode == entry->inode &&
           reach->map_major == entry->dev_major &&
           reach->map_minor == entry->dev_minor &&
           mapping->file_offset == entry->file_offset + before &&
           mapping_is_writable(mapping) == entry->writable &&
           mapping_is_private(mapping) == !entry->shared;
}
