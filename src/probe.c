/* Owns the look at what the system gives: each part of os/ is used once, on
 * memory and files of this one's own, and its answer compared with the truth.
 */
#include "probe.h"

#include "os/descriptor.h"
#include "os/limits.h"
#include "os/maptable.h"
#include "os/memfile.h"
#include "os/page.h"
#include "os/pagemap.h"
#include "os/room.h"
#include "os/writes.h"
#include "state.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define PAGES 3 /* of the memory; the middle one is written to */

typedef struct {
    const char *map_table;      /* "ioctl", "text" or "none" */
    bool map_table_expected;    /* this was built for a system that has one */
    const char *pagemap;        /* "scan", "entries" or "none" */
    const char *writes;         /* "watched", "unseen" or "none" */
    int writes_error;           /* errno of "none", or 0 */
    const char *memory_file;    /* "memfd", "folder", "disk" or "none" */
    int memory_file_error;      /* errno of "none", or 0 */
    const char *temporary;      /* the same where the user wants it */
    const char *large_pages;    /* "yes", "late", "no room" or "no" */
    bool reachable;             /* others can open descriptors */
    int64_t memory_room;        /* INT64_MAX: unlimited; as of these all */
    int64_t file_room;          /* of a memory file */
    int64_t maps, descriptors;  /* that a process may have */
    int64_t descriptors_in_use; /* -1: unknown */
    bool descriptors_scarce;    /* too few for the library to keep any */
} Probe;

/* This module's own file is mapped here. */
static const char mapped[] = "samemap";

static const char *
find_map_table(MapTableSource source)
{
    MapTable table = MAPTABLE_INIT;
    MapEntry entry;
    uintptr_t at = (uintptr_t)mapped;
    table.source = source;
    int found = maptable_find(&table, at, at + sizeof(mapped), &entry);
    bool slow = maptable_is_slow(&table);
    maptable_close(&table);
    return found != 1 ? "none" : slow ? "text" : "ioctl";
}

/* The source finds the page at `low`, which was modified. */
static bool
tells_modified(PagemapSource source, uintptr_t low)
{
    PageRange range;
    return pagemap_next_modified(source, low, low + page_size(), &range) == 1 &&
           range.start == low;
}

static const char *
find_pagemap(PagemapSource source, const char *page)
{
    uintptr_t at = (uintptr_t)page;
    if (source != PAGEMAP_ENTRIES && tells_modified(PAGEMAP_IOCTL, at)) {
        return "scan";
    }
    if (source != PAGEMAP_IOCTL && tells_modified(PAGEMAP_ENTRIES, at)) {
        return "entries";
    }
    return "none";
}

/* Watches the `size` bytes of `memory`, and writes to them. */
static void
look_at_writes(Probe *probe, char *memory, size_t size)
{
    WriteWatch watch = WRITEWATCH_INIT;
    uintptr_t low, high;
    probe->writes = "none";
    probe->writes_error = ENOSYS;
    if (!writes_pages(memory, size, &low, &high)) {
        return;
    }
    if (writes_arm(&watch, low, high) < 0) {
        probe->writes_error = errno;
    } else {
        Writes before = writes_since(&watch, low, high);
        memory[size / 2]++;
        Writes after = writes_since(&watch, low, high);
        probe->writes_error = 0;
        probe->writes = before == WRITES_NONE && after == WRITES_SOME
                            ? "watched"
                        : writes_may_be_unseen() ? "unseen"
                                                 : "none";
        writes_disarm(&watch, low, high);
    }
    writes_close(&watch);
}

/* All that needs memory to look at. */
static void
look_at_memory(Probe *probe, PagemapSource source)
{
    const size_t page = page_size(), size = PAGES * page;
    char *memory = mmap(NULL, size, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    probe->pagemap = probe->writes = "none";
    probe->writes_error = ENOMEM;
    if (memory == MAP_FAILED) {
        return;
    }
    memory[page] = 1;
    probe->pagemap = find_pagemap(source, memory + page);
    memset(memory, 1, size);
    look_at_writes(probe, memory, size);
    munmap(memory, size);
}

/* Opens *file if it can: its kind, and errno into *error. */
static const char *
find_memory_file(MemFile *file, const char *folder, int *error)
{
    *error = 0;
    if (memfile_create(file, folder, 1) < 0) {
        *error = errno;
        return "none";
    }
    return file->sealable ? "memfd" : file->in_memory ? "folder" : "disk";
}

static const char *
find_large_pages(void)
{
    MemFile file;
    LargePages pages = {false, 0, 0};
    const char *result = "no room";
    if (memfile_create(&file, NULL, MEMFILE_BLOCK) < 0) {
        return errno == EFBIG ? "no room" : "no";
    }
    /* It is filled with care, as is all else. */
    if (memfile_room(&file) / 4 >= (int64_t)MEMFILE_BLOCK) {
        memfile_populate(&file, &pages);
        result = pages.refused ? "no" : pages.until > 0 ? "late" : "yes";
    }
    memfile_close(&file);
    return result;
}

static void
look_at_files(Probe *probe, const char *folder)
{
    MemFile file, temporary;
    char path[64];
    int ignored;
    probe->memory_file =
        find_memory_file(&file, NULL, &probe->memory_file_error);
    probe->temporary = find_memory_file(&temporary, folder, &ignored);
    memfile_close(&temporary);
    probe->file_room = file.fd >= 0 ? room_in_file(file.fd) : INT64_MAX;
    probe->large_pages = file.fd >= 0 ? find_large_pages() : "no";
    memfile_close(&file);
    /* Any descriptor will do. */
    int fd = open("/", O_RDONLY | O_CLOEXEC);
    probe->reachable = fd >= 0 && descriptor_path(fd, path, sizeof(path));
    if (fd >= 0) {
        close(fd);
    }
}

static void
look_at_limits(Probe *probe)
{
    OpenFiles files;
    long maps = limits_maps(), descriptors = limits_descriptors();
    probe->memory_room = room_in_memory("");
    probe->maps = maps < LONG_MAX ? maps : INT64_MAX;
    probe->descriptors = descriptors < LONG_MAX ? descriptors : INT64_MAX;
    probe->descriptors_in_use = -1;
    probe->descriptors_scarce = false;
    if (descriptor_scan(&files) == 0) {
        probe->descriptors_in_use = (int64_t)files.in_use;
        probe->descriptors_scarce = descriptor_is_scarce(files.in_use);
        descriptor_free(&files);
    }
}

/* New reference: None where nothing limits it, and where it is unknown. */
static PyObject *
from_limit(int64_t limit)
{
    return limit >= 0 && limit < INT64_MAX ? PyLong_FromLongLong(limit)
                                           : Py_NewRef(Py_None);
}

static PyObject *
to_dict(const Probe *probe)
{
    return Py_BuildValue(
        "{s:s,s:N,s:s,s:s,s:i,s:s,s:i,s:s,s:s,s:N,s:N,s:N,s:N,s:N,s:N,s:N}",
        "map_table", probe->map_table, "map_table_expected",
        PyBool_FromLong(probe->map_table_expected), "pagemap", probe->pagemap,
        "writes", probe->writes, "writes_error", probe->writes_error,
        "memory_file", probe->memory_file, "memory_file_error",
        probe->memory_file_error, "temporary", probe->temporary, "large_pages",
        probe->large_pages, "reachable", PyBool_FromLong(probe->reachable),
        "memory_room", from_limit(probe->memory_room), "file_room",
        from_limit(probe->file_room), "maps", from_limit(probe->maps),
        "descriptors", from_limit(probe->descriptors), "descriptors_in_use",
        from_limit(probe->descriptors_in_use), "descriptors_scarce",
        PyBool_FromLong(probe->descriptors_scarce));
}

PyObject *
probe_system(PyObject *module, PyObject *args)
{
    const State *state = PyModule_GetState(module);
    const char *folder = "";
    Probe probe;
    if (!PyArg_ParseTuple(args, "|y:probe", &folder)) {
        return NULL;
    }
    const MapTableSource table = state->maptable.source;
    const PagemapSource pagemap = state->pagemap;
    probe.map_table_expected = maptable_is_expected(&state->maptable);
    Py_BEGIN_ALLOW_THREADS
    probe.map_table = find_map_table(table);
    look_at_memory(&probe, pagemap);
    look_at_files(&probe, *folder != '\0' ? folder : NULL);
    look_at_limits(&probe);
    Py_END_ALLOW_THREADS
    return to_dict(&probe);
}
