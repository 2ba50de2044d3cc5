/* Speaks for os/memfile.h, line by line: `memfile COMMAND ...` prints what it
 * found. Exit status 3: the system has not what the command is about. */
#include "os/memfile.h"
#include "os/seccomp.h"
#include "os/room.h"

#include "commands.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

static const size_t MB = 1 << 20;

static double
seconds(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + (double)time.tv_nsec * 1e-9;
}

static char *
pattern(size_t length)
{
    char *data = malloc(length + 1);
    uint64_t seed = 88172645463325252;
    for (size_t i = 0; i < length; i++) {
        seed ^= seed << 13, seed ^= seed >> 7, seed ^= seed << 17;
        data[i] = (char)(seed | 1); /* no zeros: those an empty file has */
    }
    return data;
}

static int
failed(const char *what)
{
    printf("%s: %s\n", what, strerror(errno));
    return 1;
}

/* Kilobytes of [address, ...) that lie on large pages. */
static long
large_kilobytes(const void *address)
{
    char line[256];
    FILE *smaps = fopen("/proc/self/smaps", "r");
    long found = -1, value;
    bool inside = false;
    while (smaps != NULL && fgets(line, sizeof(line), smaps) != NULL) {
        uintptr_t low, high;
        if (sscanf(line, "%" SCNxPTR "-%" SCNxPTR " ", &low, &high) == 2) {
            inside = (uintptr_t)address >= low && (uintptr_t)address < high;
        } else if (inside && sscanf(line, "ShmemPmdMapped: %ld", &value) == 1) {
            found = value;
        }
    }
    if (smaps != NULL) {
        fclose(smaps);
    }
    return found;
}

/* fill SIZE OFFSET LENGTH FOLDER: the range has the bytes, all else zeros. */
static int
fill(char **args)
{
    MemFile file;
    LargePages pages = {false, 0, 0};
    size_t size = strtoull(args[0], NULL, 10);
    size_t offset = strtoull(args[1], NULL, 10);
    size_t length = strtoull(args[2], NULL, 10);
    const char *folder = *args[3] != '\0' ? args[3] : NULL;
    char *data = pattern(length);
    if (memfile_create(&file, folder, (int64_t)size) < 0) {
        return failed("create");
    }
    struct stat status;
    fstat(file.fd, &status);
    if (memfile_fill(&file, &pages, (int64_t)offset, data, length) < 0) {
        return failed("fill");
    }
    MemfileHole hole;
    memfile_reserve(&hole, size);
    char *map = mmap(NULL, size, PROT_READ, MAP_PRIVATE, file.fd, 0);
    memfile_release(&hole);
    bool exact = memcmp(map + offset, data, length) == 0, empty = true;
    for (size_t i = 0; i < size; i++) {
        empty &= (i >= offset && i < offset + length) || map[i] == 0;
    }
    printf("exact %d\nempty %d\n", exact, empty);
    printf("links %ld\ncloexec %d\nin_memory %d\nsealable %d\n",
           (long)status.st_nlink, fcntl(file.fd, F_GETFD) & FD_CLOEXEC,
           file.in_memory, file.sealable);
    printf("aligned %d\nlarge %ld\nrefused %d\n",
           (uintptr_t)map % MEMFILE_BLOCK == 0, large_kilobytes(map),
           pages.refused || pages.until > 0);
    return 0;
}

/* populate SIZE: kilobytes on large pages, all of them zero. */
static int
populate(char **args)
{
    MemFile file;
    MemfileHole hole;
    LargePages pages = {false, 0, 0};
    size_t size = strtoull(args[0], NULL, 10);
    if (memfile_create(&file, NULL, (int64_t)size) < 0) {
        return failed("create");
    }
    memfile_populate(&file, &pages);
    memfile_reserve(&hole, size);
    char *map = mmap(NULL, size, PROT_READ, MAP_SHARED, file.fd, 0);
    memfile_release(&hole);
    bool empty = true;
    for (size_t i = 0; i < size; i++) {
        empty &= map[i] == 0;
    }
    printf("empty %d\nlarge %ld\nrefused %d\n", empty, large_kilobytes(map),
           pages.refused || pages.until > 0);
    return 0;
}

/* seal SHRINK: what may still be done to its size. */
static int
seal(char **args)
{
    MemFile file;
    if (memfile_create(&file, NULL, 4096) < 0 || !file.sealable) {
        return 3;
    }
    if (memfile_seal(&file, *args[0] == '1') < 0) {
        return failed("seal");
    }
    printf("grow %d\n", ftruncate(file.fd, 8192));
    printf("shrink %d\n", ftruncate(file.fd, 0));
    return 0;
}

/* limited LIMIT SIZE: under RLIMIT_FSIZE, set after the file has its size. */
static int
limited(char **args)
{
    MemFile file, other;
    LargePages pages = {false, 0, 0};
    size_t size = strtoull(args[1], NULL, 10);
    char *data = pattern(size);
    if (memfile_create(&file, NULL, (int64_t)size) < 0) {
        return failed("create");
    }
    struct rlimit limit = {strtoull(args[0], NULL, 10), RLIM_INFINITY};
    setrlimit(RLIMIT_FSIZE, &limit);
    printf("room %" PRId64 "\n", memfile_room(&file));
    if (memfile_fill(&file, &pages, 0, data, size) == 0) {
        printf("filled\n");
    } else {
        failed("fill");
    }
    return memfile_create(&other, NULL, (int64_t)size) < 0 ? failed("create")
                                                           : 0;
}

/* room ROOT: as told below that folder. */
static int
room(char **args)
{
    printf("%" PRId64 "\n", room_in_memory(args[0]));
    return 0;
}

/* left FOLDER: what a file in it may have. */
static int
left(char **args)
{
    MemFile file;
    if (memfile_create(&file, args[0], 0) < 0) {
        return failed("create");
    }
    printf("%" PRId64 "\n%d\n", memfile_room(&file), file.in_memory);
    return 0;
}

/* allowed: what seccomp lets through. */
static int
allowed(char **args)
{
    (void)args;
    printf("memfd %d\nuserfaultfd %d\n", seccomp_allows(SECCOMP_MEMFD),
           seccomp_allows(SECCOMP_USERFAULTFD));
    return 0;
}

/* kept COUNT: nothing is mapped or open after so many fills. */
static int
kept(char **args)
{
    LargePages pages = {false, 0, 0};
    size_t size = 9 * MB + 4097;
    char *data = pattern(size);
    for (long i = 0; i < strtol(args[0], NULL, 10) + 1; i++) {
        MemFile file;
        MemfileHole hole;
        if (memfile_create(&file, NULL, (int64_t)size) < 0 ||
            memfile_fill(&file, &pages, 0, data, size) < 0) {
            return failed("fill");
        }
        memfile_reserve(&hole, size);
        memfile_release(&hole);
        memfile_close(&file);
        if (i == 0 || i == strtol(args[0], NULL, 10)) {
            char line[512];
            FILE *maps = fopen("/proc/self/maps", "r");
            long lines = 0;
            while (fgets(line, sizeof(line), maps) != NULL) {
                lines++;
            }
            fclose(maps);
            printf("%ld %d\n", lines, dup(0));
            close(dup(0) - 1);
        }
    }
    return 0;
}

/* time MEGABYTES COUNT: ms of a memcpy into fresh memory, of a fill, and of one
 * without large pages; minima. */
static int
measure(char **args)
{
    size_t size = strtoull(args[0], NULL, 10) * MB;
    char *data = pattern(size);
    double best[3] = {1e9, 1e9, 1e9};
    for (long i = 0; i < strtol(args[1], NULL, 10); i++) {
        double start = seconds();
        char *copy = mmap(NULL, size, PROT_READ | PROT_WRITE,
                          MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        madvise(copy, size, MADV_HUGEPAGE);
        memcpy(copy, data, size);
        double took = seconds() - start;
        best[0] = took < best[0] ? took : best[0];
        munmap(copy, size);
        for (int small = 0; small < 2; small++) {
            LargePages pages = {small, 0, 0};
            MemFile file;
            start = seconds();
            if (memfile_create(&file, NULL, (int64_t)size) < 0 ||
                memfile_fill(&file, &pages, 0, data, size) < 0) {
                return failed("fill");
            }
            took = seconds() - start;
            best[1 + small] = took < best[1 + small] ? took : best[1 + small];
            memfile_close(&file);
        }
    }
    printf("copy %.2f\nlarge %.2f\nsmall %.2f\n", best[0] * 1e3, best[1] * 1e3,
           best[2] * 1e3);
    return 0;
}

int
main(int argc, char **argv)
{
    static const Command commands[] = {
        {"fill", 4, fill},       {"populate", 1, populate},
        {"seal", 1, seal},       {"limited", 2, limited},
        {"room", 1, room},       {"left", 1, left},
        {"allowed", 0, allowed}, {"kept", 1, kept},
        {"time", 2, measure},
    };
    return run_command(commands, sizeof(commands) / sizeof(*commands), argc,
                       argv);
}
