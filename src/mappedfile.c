/* Owns the questions to the system about the file of a mapping: is it at this
 * path, is it what this descriptor is on? And what the process has open, which
 * is looked up for that.
 *
 * All wait without the GIL, and none writes a Reach, which another thread may
 * do meanwhile: what is told is of a moment ago.
 */
#include "mappedfile.h"

#include "message.h"
#include "os/descriptor.h"

#include <errno.h>

/* Of one inode that are looked at; and of a process whose descriptors can be
 * looked up at any time, in a fraction of a millisecond. */
enum { MAX_DESCRIPTORS = 64, FEW_DESCRIPTORS = 256 };

static int
stat_path(const char *path, FileStatus *status)
{
    int result;
    Py_BEGIN_ALLOW_THREADS
    result = fileid_stat(path, status);
    Py_END_ALLOW_THREADS
    return result;
}

static Match
match(const Mapping *mapping, const MapEntry *entry, const char *path,
      const FileStatus *status)
{
    Match result;
    const Mapping copy = *mapping;
    Py_BEGIN_ALLOW_THREADS
    result = descriptor_match(&copy, entry, path, -1, status);
    Py_END_ALLOW_THREADS
    return result;
}

static bool
is_open(const FileId *id)
{
    bool result;
    const FileId copy = *id;
    Py_BEGIN_ALLOW_THREADS
    result = fileid_is_open(&copy);
    Py_END_ALLOW_THREADS
    return result;
}

Match
mappedfile_is_at(const Reach *reach, const Mapping *mapping,
                 const MapEntry *entry, const char *path, FileStatus *status)
{
    if (stat_path(path, status) < 0 || !status->regular) {
        return MATCH_OTHER;
    }
    if (reach->has_id) {
        return fileid_equal(&status->id, &reach->id) ? MATCH_SAME : MATCH_OTHER;
    }
    return entry != NULL ? match(mapping, entry, path, status) : MATCH_OTHER;
}

bool
mappedfile_is_open_at(const char *path, FileStatus *status)
{
    return stat_path(path, status) >= 0 && status->regular &&
           is_open(&status->id);
}

int
mappedfile_try_open(const char *path, const FileId *id, bool writable,
                    bool opened)
{
    int error;
    Py_BEGIN_ALLOW_THREADS
    error = opened ? fileid_access(path, writable)
                   : descriptor_try_open(path, id, writable);
    Py_END_ALLOW_THREADS
    return error;
}

bool
mappedfile_has_descriptor(const Reach *reach, FileStatus *status)
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

/* ---- Descriptors that the process has ------------------------------------ */

/* Looks up what the process has open: 0, or -1. */
static int
scan(State *state, uint64_t message)
{
    OpenFiles files, before;
    int result;
    Py_BEGIN_ALLOW_THREADS
    result = descriptor_scan(&files);
    Py_END_ALLOW_THREADS
    if (result < 0) {
        return -1;
    }
    before = state->open_files;
    state->open_files = files;
    state->open_files_message = message;
    descriptor_free(&before);
    return 0;
}

/* The descriptors of inode `ino` as of the last scan: their number. */
static size_t
list_descriptors(const State *state, uint64_t ino, int *fds)
{
    size_t count;
    const struct OpenFile *first =
        descriptor_of_inode(&state->open_files, ino, &count);
    count = count < MAX_DESCRIPTORS ? count : MAX_DESCRIPTORS;
    for (size_t i = 0; i < count; i++) {
        fds[i] = first[i].fd;
    }
    return count;
}

/* A duplicate of a descriptor on the file, among those of the last scan, or
 * -1: then *reason may say more than it did. */
static int
find_scanned(State *state, const Reach *reach, const Mapping *mapping,
             const MapEntry *entry, FileStatus *status, Reason *reason)
{
    int fds[MAX_DESCRIPTORS];
    size_t count = list_descriptors(state, entry->inode, fds);
    const Mapping copy = *mapping;
    const FileId id = reach->id;
    const bool has_id = reach->has_id;
    for (size_t i = 0; i < count; i++) {
        int kept, error;
        if (descriptor_is_scarce(state->open_files.in_use)) {
            *reason = REASON_DESCRIPTORS;
            return -1;
        }
        Py_BEGIN_ALLOW_THREADS
        kept =
            descriptor_keep(fds[i], &copy, entry, has_id ? &id : NULL, status);
        error = errno;
        Py_END_ALLOW_THREADS
        if (kept >= 0) {
            state->open_files.in_use++;
            return kept;
        }
        if (error == EAGAIN) {
            *reason = REASON_UNPROVEN;
        } else if (error == EMFILE) {
            *reason = REASON_DESCRIPTORS;
        }
    }
    return -1;
}

int
mappedfile_find_descriptor(State *state, const Reach *reach,
                           const Mapping *mapping, const MapEntry *entry,
                           FileStatus *status, Reason *reason)
{
    uint64_t message = message_number(state);
    bool scanned =
        state->open_files_message == message && !message_is_implicit(message);
    if (!scanned && scan(state, message) < 0) {
        return -1;
    }
    int fd = find_scanned(state, reach, mapping, entry, status, reason);
    if (fd < 0 && scanned && *reason != REASON_DESCRIPTORS &&
        state->open_files.in_use <= FEW_DESCRIPTORS &&
        scan(state, message) == 0) {
        fd = find_scanned(state, reach, mapping, entry, status, reason);
    }
    return fd;
}
