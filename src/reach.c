/* Owns how the file of a mapping is reached, and whether it can be.
 *
 * Waiting for the system happens without the GIL, so another thread may change
 * a Reach at every such call; what is written here in one go is written after
 * the last of them.
 */
#include "reach.h"

#include "errors.h"
#include "mappedfile.h"
#include "os/descriptor.h"

#include <string.h>
#include <unistd.h>

/* joblib's temporary files are in folders of this name, for every user. */
#define JOBLIB_FOLDER "joblib_memmapping_folder_"

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
    reach->opened = false;
    core_set(&reach->path, py_path);
    return 0;
}

/* Takes `path` as the way to the file, if the file is long enough and may be
 * opened as it is mapped. A length, or -1 with an exception. */
static intptr_t
accept_path(State *state, Reach *reach, const Mapping *mapping,
            const char *path, const FileStatus *status)
{
    bool writable = mapping_writes_through(mapping);
    bool opened = reach->opened && strcmp(reach_path(reach), path) == 0;
    bool allowed =
        mappedfile_try_open(path, &status->id, writable, opened) == 0 &&
        !(writable && descriptor_is_sealed(reach->fd));
    intptr_t length = mapping->length;
    int64_t start = (int64_t)mapping->file_offset, end;
    if (!reach->has_id) {
        reach->id = status->id;
        reach->has_id = true;
    } else if (!fileid_equal(&reach->id, &status->id)) {
        /* Another thread has found another file meanwhile: one of the two was
         * not the mapped one. */
        reach->reason = REASON_UNPROVEN;
        return length;
    }
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
    if (set_path(reach, path) < 0) {
        return -1;
    }
    reach->opened = allowed;
    return length;
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
keep_descriptor(State *state, Reach *reach, const Mapping *mapping,
                const MapEntry *entry, FileStatus *status, Reason *reason)
{
    FileStatus other;
    if (mappedfile_has_descriptor(reach, status)) {
        return true;
    }
    int fd = mappedfile_find_descriptor(state, reach, mapping, entry, status,
                                        reason);
    if (fd < 0) {
        return false;
    }
    if (mappedfile_has_descriptor(reach, &other) ||
        (reach->has_id && !fileid_equal(&reach->id, &status->id))) {
        /* Another thread was here meanwhile. */
        descriptor_release(fd, status->id.ino);
    } else {
        reach->fd = fd;
        reach->id = status->id;
        reach->has_id = true;
    }
    return mappedfile_has_descriptor(reach, status);
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
    Reason reason = REASON_UNREACHABLE;

    Match found = mappedfile_is_at(reach, mapping, entry, entry->path, &status);
    if (found == MATCH_SAME) {
        return accept_path(state, reach, mapping, entry->path, &status);
    }
    if (look_up(state, mapping, &now) == 1 &&
        strcmp(now.path, entry->path) != 0) {
        found = mappedfile_is_at(reach, mapping, &now, now.path, &status);
        if (found == MATCH_SAME) {
            return accept_path(state, reach, mapping, now.path, &status);
        }
    }
    if (found == MATCH_UNPROVEN) {
        reason = REASON_UNPROVEN;
    }
    if (keep_descriptor(state, reach, mapping, entry, &status, &reason) &&
        descriptor_path(reach->fd, path, sizeof(path))) {
        return accept_path(state, reach, mapping, path, &status);
    }
    reach->reason = reason;
    return set_path(reach, entry->path) < 0 ? -1 : mapping->length;
}

/* FNV-1a, 64 bits. */
static uint64_t
hash_name(const char *name)
{
    uint64_t hash = UINT64_C(0xcbf29ce484222325);
    for (; *name != '\0'; name++) {
        hash = (hash ^ (unsigned char)*name) * UINT64_C(0x100000001b3);
    }
    return hash;
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
    reach->map_name = hash_name(entry->path);
    return search(state, reach, mapping, entry);
}

intptr_t
reach_from_path(State *state, Reach *reach, const Mapping *mapping,
                const char *path)
{
    FileStatus status;
    init(reach);
    /* The path may lead to another file by now. The map of an np.memmap keeps a
     * descriptor on its own, so one that nobody has open is not it. */
    if (!mappedfile_is_open_at(path, &status)) {
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
    if (mappedfile_has_descriptor(reach, &status)) {
        Py_BEGIN_ALLOW_THREADS
        descriptor_release(reach->fd, status.id.ino);
        Py_END_ALLOW_THREADS
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
    if (mappedfile_is_at(reach, mapping, NULL, path, &status) == MATCH_SAME) {
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
           mapping_is_private(mapping) == !entry->shared &&
           /* Where stat has other numbers, those of the table may be several
            * files' (btrfs). */
           (reach->id.dev == maptable_device(entry) ||
            reach->map_name == hash_name(entry->path));
}
