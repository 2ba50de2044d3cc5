/* Owns the reading of Linux's map table, by ioctl where the kernel has it and
 * by its text elsewhere.
 *
 * One mapping may be several entries (after mprotect or madvise), so an
 * answer is always a run of entries: see maptable_find.
 */
#include "os/maptable.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

/* From <linux/fs.h> of Linux 6.11; the headers of a build machine are older
 * than the kernels that the binary will run on. */
struct procmap_query {
    uint64_t size, query_flags, query_addr;
    uint64_t vma_start, vma_end, vma_flags, vma_page_size, vma_offset, inode;
    uint32_t dev_major, dev_minor;
    uint32_t vma_name_size, build_id_size;
    uint64_t vma_name_addr, build_id_addr;
};
#define PROCMAP_QUERY_IOCTL _IOWR('f', 17, struct procmap_query)
#define VMA_READABLE 0x01
#define VMA_WRITABLE 0x02
#define VMA_SHARED 0x08

/* The descriptor still is that of the table: others may close all that a
 * process has (a daemon does), and then the number is somebody else's. */
static bool
is_ours(const MapTable *table)
{
    struct stat st;
    return table->fd >= 0 && fstat(table->fd, &st) == 0 &&
           st.st_dev == table->dev && st.st_ino == table->ino;
}

static int
open_table(MapTable *table)
{
    struct stat st;
    long pid = (long)getpid();
    if (is_ours(table) && table->pid == pid) {
        return table->fd;
    }
    maptable_close(table);
    int fd = open("/proc/self/maps", O_RDONLY | O_CLOEXEC);
    if (fd >= 0 && fstat(fd, &st) < 0) {
        close(fd);
        fd = -1;
    }
    if (fd >= 0) {
        table->fd = fd;
        table->dev = st.st_dev;
        table->ino = st.st_ino;
        table->pid = pid;
    }
    return fd;
}

/* The entry that covers `address`: 1, 0 or -1 (the ioctl doesn't exist). */
static int
find_by_ioctl(MapTable *table, uintptr_t address, MapEntry *entry)
{
    struct procmap_query query = {
        .size = sizeof(query),
        .query_addr = address,
        .vma_name_size = sizeof(entry->path),
        .vma_name_addr = (uintptr_t)entry->path,
    };
    int result = ioctl(table->fd, PROCMAP_QUERY_IOCTL, &query);
    if (result < 0 && errno == ENAMETOOLONG) {
        query.vma_name_size = 0;
        query.vma_name_addr = 0;
        result = ioctl(table->fd, PROCMAP_QUERY_IOCTL, &query);
    }
    if (result < 0) {
        return errno == ENOENT ? 0 : -1;
    }
    if (query.vma_name_size == 0) {
        entry->path[0] = '\0';
    }
    entry->start = (uintptr_t)query.vma_start;
    entry->end = (uintptr_t)query.vma_end;
    entry->file_offset = query.vma_offset;
    entry->inode = query.inode;
    entry->dev_major = query.dev_major;
    entry->dev_minor = query.dev_minor;
    entry->readable = query.vma_flags & VMA_READABLE;
    entry->writable = query.vma_flags & VMA_WRITABLE;
    entry->shared = query.vma_flags & VMA_SHARED;
    return 1;
}

/* The text escapes one byte only: a newline in a name is "\012". A name that
 * holds these four characters itself reads the same; the check of the path
 * against the file's identity finds that out. */
static void
copy_name(char *out, const char *name)
{
    const char *limit = out + MAPTABLE_PATH_SIZE - 1;
    while (*name != '\0' && out < limit) {
        if (strncmp(name, "\\012", 4) == 0) {
            *out++ = '\n';
            name += 4;
        } else {
            *out++ = *name++;
        }
    }
    *out = '\0';
}

/* "start-end rwxp offset major:minor inode   name"; false for another form. */
static bool
parse_line(const char *line, MapEntry *entry)
{
    char access[5];
    int name = 0;
    int n = sscanf(line,
                   "%" SCNxPTR "-%" SCNxPTR " %4s %" SCNx64 " %" SCNx32
                   ":%" SCNx32 " %" SCNu64 " %n",
                   &entry->start, &entry->end, access, &entry->file_offset,
                   &entry->dev_major, &entry->dev_minor, &entry->inode, &name);
    if (n != 7) {
        return false;
    }
    entry->readable = access[0] == 'r';
    entry->writable = access[1] == 'w';
    entry->shared = access[3] == 's';
    copy_name(entry->path, line + name);
    return true;
}

/* All of the text, NUL at its end, or NULL; the caller frees it. */
static char *
read_text(int fd)
{
    size_t size = 0, room = 1 << 16;
    char *text = malloc(room);
    if (text == NULL) {
        return NULL;
    }
    for (;;) {
        ssize_t n = pread(fd, text + size, room - size - 1, (off_t)size);
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n < 0) {
            free(text);
            return NULL;
        }
        if (n == 0) {
            text[size] = '\0';
            return text;
        }
        size += (size_t)n;
        if (room - size < 2) {
            char *larger = realloc(text, room *= 2);
            if (larger == NULL) {
                free(text);
                return NULL;
            }
            text = larger;
        }
    }
}

/* The entry of `text` that covers `address`: 1 or 0. */
static int
find_in_text(const char *text, uintptr_t address, MapEntry *entry)
{
    char line[MAPTABLE_PATH_SIZE + 128];
    for (const char *end; (end = strchr(text, '\n')) != NULL; text = end + 1) {
        /* The addresses alone decide; only the right line is parsed. */
        char *after;
        uintptr_t start = (uintptr_t)strtoull(text, &after, 16);
        uintptr_t stop = (uintptr_t)strtoull(after + 1, NULL, 16);
        if (address < start || address >= stop) {
            continue;
        }
        size_t length = (size_t)(end - text);
        if (length >= sizeof(line)) {
            length = sizeof(line) - 1; /* a name that no path can be */
        }
        memcpy(line, text, length);
        line[length] = '\0';
        return parse_line(line, entry);
    }
    return 0;
}

/* One lookup: by ioctl when `text` is NULL. */
static int
find_one(MapTable *table, const char *text, uintptr_t address, MapEntry *entry)
{
    return text == NULL ? find_by_ioctl(table, address, entry)
                        : find_in_text(text, address, entry);
}

static bool
continues(const MapEntry *first, const MapEntry *second)
{
    return first->end == second->start && maptable_same_file(first, second) &&
           first->shared == second->shared &&
           strcmp(first->path, second->path) == 0 &&
           first->file_offset + (first->end - first->start) ==
               second->file_offset;
}

static int
find_run(MapTable *table, const char *text, uintptr_t low, uintptr_t high,
         MapEntry *entry)
{
    MapEntry next;
    int found = find_one(table, text, low, entry);
    if (found != 1) {
        return found;
    }
    if (entry->inode == 0 || !entry->readable) {
        return 0;
    }
    while (entry->end < high) {
        found = find_one(table, text, entry->end, &next);
        if (found != 1) {
            return found;
        }
        if (!continues(entry, &next) || !next.readable) {
            return 0;
        }
        entry->end = next.end;
        entry->writable &= next.writable;
    }
    return 1;
}

int
maptable_find(MapTable *table, uintptr_t low, uintptr_t high, MapEntry *entry)
{
    if (table->source == MAPTABLE_NONE || open_table(table) < 0) {
        return -1;
    }
    if (table->source != MAPTABLE_TEXT && !table->no_ioctl) {
        int found = find_run(table, NULL, low, high, entry);
        if (found >= 0) {
            return found;
        }
        table->no_ioctl = true;
    }
    if (table->source == MAPTABLE_IOCTL) {
        return -1;
    }
    char *text = read_text(table->fd);
    if (text == NULL) {
        return -1;
    }
    int found = find_run(table, text, low, high, entry);
    free(text);
    return found;
}

bool
maptable_is_expected(const MapTable *table)
{
    return table->source != MAPTABLE_NONE;
}

bool
maptable_is_slow(const MapTable *table)
{
    return table->source == MAPTABLE_TEXT || table->no_ioctl;
}

uint64_t
maptable_device(const MapEntry *entry)
{
    return makedev(entry->dev_major, entry->dev_minor);
}

/* The inode number of a System V segment is its id, which a memfd may have as
 * well. */
bool
maptable_is_nameless(const MapEntry *entry)
{
    return strcmp(entry->path, "/dev/zero (deleted)") == 0 ||
           (strncmp(entry->path, "/SYSV", 5) == 0 &&
            strcmp(entry->path + 13, " (deleted)") == 0);
}

void
maptable_close(MapTable *table)
{
    if (is_ours(table)) {
        close(table->fd);
    }
    table->fd = -1;
}
