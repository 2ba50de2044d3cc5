/* Speaks for os/writes.h: `writes COMMAND ...` prints what it found. Exit
 * status 3: the system has not what the command is about. */
#include "os/writes.h"

#include "commands.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define PAGE 4096
#define LARGE ((size_t)2 << 20)
#define LENGTH (8 * LARGE)
#define AT (3 * LARGE + 5 * PAGE)

static const char *const words[] = {"none", "some", "unknown"};
static WriteWatch watch = WRITEWATCH_INIT;
static char *memory;
static volatile char sink;

static uintptr_t
address(const char *p)
{
    return (uintptr_t)p;
}

static void
read_all(const char *start, size_t length)
{
    for (size_t i = 0; i < length; i += PAGE) {
        sink = start[i];
    }
}

static Writes
look(void)
{
    return writes_since(&watch, address(memory), address(memory) + LENGTH);
}

static int
arm(void)
{
    return writes_arm(&watch, address(memory), address(memory) + LENGTH);
}

/* Memory at a multiple of 2 MB, on large pages if they can be had. */
static char *
map_memory(bool large)
{
    char *start = mmap(NULL, LENGTH + LARGE, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    start += -(uintptr_t)start & (LARGE - 1);
    madvise(start, LENGTH, large ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
    return start;
}

/* ---- Ways to write ------------------------------------------------------- */

static char file_name[] = "/tmp/samemap-writes-XXXXXX";

static int
make_file(int flags)
{
    static char page[PAGE];
    int fd = mkstemp(file_name);
    if (fd < 0 || write(fd, page, PAGE) != PAGE) {
        exit(3);
    }
    close(fd);
    fd = open(file_name, O_RDWR | flags);
    unlink(file_name);
    if (fd < 0) {
        exit(3);
    }
    return fd;
}

static void
nothing(void)
{
    read_all(memory, LENGTH);
}

static void
store(void)
{
    memory[AT] ^= 1;
}

static void
same_value(void)
{
    ((volatile char *)memory)[AT] = memory[AT];
}

static void
last_page(void)
{
    memory[LENGTH - 1] ^= 1;
}

static void
read_call(void)
{
    int fd = open("/dev/zero", O_RDONLY);
    if (read(fd, memory + AT, 100) != 100) {
        exit(3);
    }
}

static void
pread_call(void)
{
    if (pread(make_file(0), memory + AT, 100, 0) != 100) {
        exit(3);
    }
}

static void
direct_read(void)
{
    if (pread(make_file(O_DIRECT), memory + AT, PAGE, 0) != PAGE) {
        exit(3);
    }
}

static void
from_elsewhere(void)
{
    char byte = 1;
    struct iovec local = {&byte, 1}, remote = {memory + AT, 1};
    if (process_vm_writev(getpid(), &local, 1, &remote, 1, 0) != 1) {
        exit(3);
    }
}

static void
own_memory_file(void)
{
    int fd = open("/proc/self/mem", O_RDWR);
    if (fd < 0 || pwrite(fd, "x", 1, (off_t)address(memory + AT)) != 1) {
        exit(3);
    }
}

static void *
store_in_thread(void *arg)
{
    (void)arg;
    store();
    return NULL;
}

static void
other_thread(void)
{
    pthread_t thread;
    pthread_create(&thread, NULL, store_in_thread, NULL);
    pthread_join(thread, NULL);
}

static void
drop_page(void)
{
    madvise(memory + AT, PAGE, MADV_DONTNEED);
}

static void
drop_block(void)
{
    madvise(memory + LARGE, LARGE, MADV_DONTNEED);
}

static void
drop_all(void)
{
    madvise(memory, LENGTH, MADV_DONTNEED);
}

static void
drop_and_read(void)
{
    drop_block();
    read_all(memory, LENGTH);
}

static void
free_lazily(void)
{
    madvise(memory + AT, PAGE, MADV_FREE);
    madvise(memory + AT, PAGE, 21); /* MADV_PAGEOUT: it is freed now */
    if (memory[AT] != 0) {
        exit(3);
    }
}

static void
map_again(void)
{
    munmap(memory, LENGTH);
    if (mmap(memory, LENGTH, PROT_READ | PROT_WRITE,
             MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) != memory) {
        exit(3);
    }
    read_all(memory, LENGTH);
}

static void
map_part_again(void)
{
    if (mmap(memory + AT, PAGE, PROT_READ | PROT_WRITE,
             MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == MAP_FAILED) {
        exit(3);
    }
    read_all(memory, LENGTH);
}

static void
unmap(void)
{
    munmap(memory, LENGTH);
}

static void
unmap_part(void)
{
    munmap(memory + LARGE, LARGE);
}

static void
move(void)
{
    if (mremap(memory, LENGTH, 2 * LENGTH, MREMAP_MAYMOVE) == MAP_FAILED) {
        exit(3);
    }
}

static void
close_all(void)
{
    writes_close(&watch);
}

static void
disarm(void)
{
    writes_disarm(&watch, address(memory), address(memory) + LENGTH);
}

static void
fork_only(void)
{
    pid_t pid = fork();
    if (pid == 0) {
        memory[AT] = 1;
        _exit(0);
    }
    waitpid(pid, NULL, 0);
}

static void
fork_and_store(void)
{
    int ends[2];
    if (pipe(ends) < 0) {
        exit(3);
    }
    pid_t pid = fork();
    if (pid == 0) {
        char byte;
        close(ends[1]);
        _exit(read(ends[0], &byte, 1) < 0);
    }
    close(ends[0]);
    store(); /* with a living child: the page is copied */
    close(ends[1]);
    waitpid(pid, NULL, 0);
}

static void
protect(void)
{
    mprotect(memory, LENGTH, PROT_READ);
    mprotect(memory, LENGTH, PROT_READ | PROT_WRITE);
}

static void
fork_and_close(void)
{
    pid_t pid = fork();
    if (pid == 0) {
        writes_close(&watch);
        _exit(0);
    }
    waitpid(pid, NULL, 0);
}

/* seen WAY LARGE: what is known before that way of writing, and after it. */
static int
seen(char **args)
{
    static const struct {
        const char *name;
        void (*write)(void);
    } ways[] = {
        {"nothing", nothing},
        {"store", store},
        {"same value", same_value},
        {"last page", last_page},
        {"read", read_call},
        {"pread", pread_call},
        {"O_DIRECT", direct_read},
        {"process_vm_writev", from_elsewhere},
        {"/proc/self/mem", own_memory_file},
        {"thread", other_thread},
        {"drop page", drop_page},
        {"drop block", drop_block},
        {"drop all", drop_all},
        {"drop and read", drop_and_read},
        {"free lazily", free_lazily},
        {"map again", map_again},
        {"map part again", map_part_again},
        {"unmap", unmap},
        {"unmap part", unmap_part},
        {"move", move},
        {"close", close_all},
        {"disarm", disarm},
        {"fork", fork_only},
        {"fork and store", fork_and_store},
        {"fork and close", fork_and_close},
        {"mprotect", protect},
    };
    memory = map_memory(*args[1] == '1');
    memset(memory, 7, LENGTH);
    if (arm() < 0) {
        printf("%s\n", strerror(errno));
        return 3;
    }
    read_all(memory, LENGTH);
    printf("before %s\n", words[look()]);
    for (size_t i = 0; i < sizeof(ways) / sizeof(*ways); i++) {
        if (strcmp(ways[i].name, args[0]) == 0) {
            ways[i].write();
            printf("after %s\n", words[look()]);
            return 0;
        }
    }
    return 2;
}

/* again: the second time it is armed, it is unwritten anew. */
static int
again(char **args)
{
    (void)args;
    memory = map_memory(false);
    if (arm() < 0) {
        return 3;
    }
    store();
    printf("first %s\n", words[look()]);
    printf("armed %d\n", arm());
    read_all(memory, LENGTH);
    printf("second %s\n", words[look()]);
    printf("ranges %d\n", watch.armed);
    return 0;
}

/* untouched: pages that nobody has had before are watched as well. */
static int
untouched(char **args)
{
    memory = map_memory(*args[0] == '1');
    if (arm() < 0) {
        return 3;
    }
    read_all(memory, LENGTH);
    printf("before %s\n", words[look()]);
    store();
    printf("after %s\n", words[look()]);
    return 0;
}

/* child: what a forked child is told of ranges that its parent has armed. */
static int
child(char **args)
{
    (void)args;
    memory = map_memory(false);
    memset(memory, 7, LENGTH);
    if (arm() < 0) {
        return 3;
    }
    pid_t pid = fork();
    if (pid == 0) {
        int first = look() == WRITES_UNKNOWN;
        int own = arm() == 0 && look() == WRITES_NONE;
        store();
        _exit(first && own && look() == WRITES_SOME ? 0 : 1);
    }
    int status = 1;
    waitpid(pid, &status, 0);
    printf("child %d\nparent %s\n", status, words[look()]);
    return 0;
}

/* kind KIND: memory of other kinds is refused. */
static int
kind(char **args)
{
    int fd = make_file(0);
    if (ftruncate(fd, LENGTH) < 0) {
        return 3;
    }
    int flags = MAP_PRIVATE;
    if (strcmp(args[0], "shared") == 0) {
        flags = MAP_SHARED | MAP_ANONYMOUS;
    } else if (strcmp(args[0], "file") == 0) {
        flags = MAP_SHARED;
    }
    memory = mmap(NULL, LENGTH, PROT_READ | PROT_WRITE, flags,
                  flags & MAP_ANONYMOUS ? -1 : fd, 0);
    read_all(memory, LENGTH);
    int result = arm();
    printf("arm %s\n", result < 0 ? strerror(errno) : "0");
    printf("ranges %d\n", watch.armed);
    return 0;
}

/* limit: only so many ranges are armed, and others may take their place. */
static int
limit(char **args)
{
    (void)args;
    memory = map_memory(false);
    int armed = 0;
    uintptr_t low = address(memory);
    while (armed < 1000 && writes_arm(&watch, low, low + PAGE) == 0) {
        armed++;
        low += 2 * PAGE;
    }
    if (armed == 0) {
        return 3;
    }
    printf("armed %d\nerror %s\n", armed, strerror(errno));
    writes_disarm(&watch, address(memory), address(memory) + PAGE);
    printf("another %d\n", writes_arm(&watch, low, low + PAGE));
    return 0;
}

/* pages DATA LENGTH: the whole ones. */
static int
pages(char **args)
{
    uintptr_t low, high, data = strtoul(args[0], NULL, 10);
    bool any =
        writes_pages((void *)data, strtoul(args[1], NULL, 10), &low, &high);
    printf("any %d\n", any);
    if (any) {
        printf("low %lu\nhigh %lu\n", (unsigned long)low, (unsigned long)high);
    }
    return 0;
}

/* library PATH: nothing is proven once it is loaded. */
static int
library(char **args)
{
    memory = map_memory(false);
    if (arm() < 0) {
        return 3;
    }
    read_all(memory, LENGTH);
    printf("before %s\n", words[look()]);
    if (dlopen(args[0], RTLD_NOW) == NULL) {
        printf("%s\n", dlerror());
        return 1;
    }
    printf("after %s\n", words[look()]);
    return 0;
}

/* pinned: nothing is proven while io_uring has registered buffers. */
static int
pinned(char **args)
{
    (void)args;
    char params[120] = {0};
    memory = map_memory(false);
    memset(memory, 1, LENGTH);
    if (arm() < 0) {
        return 3;
    }
    printf("before %s\n", words[look()]);
    long ring = syscall(425, 4, params); /* io_uring_setup */
    struct iovec buffer = {memory, PAGE};
    if (ring < 0 || syscall(427, ring, 0, &buffer, 1) < 0) {
        return 3;
    }
    /* Registering them is a write; so that it isn't that which is seen: */
    arm();
    printf("after %s\n", words[look()]);
    return 0;
}

static double
seconds(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + (double)time.tv_nsec * 1e-9;
}

/* time MEGABYTES LARGE: microseconds. */
static int
measure(char **args)
{
    size_t length = strtoull(args[0], NULL, 10) << 20;
    char *start = mmap(NULL, length, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    madvise(start, length, *args[1] == '1' ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
    memset(start, 1, length);
    uintptr_t low = address(start), high = low + length;
    double from = seconds();
    if (writes_arm(&watch, low, high) < 0) {
        return 3;
    }
    printf("arm %.1f\n", (seconds() - from) * 1e6);
    double best[2] = {1e9, 1e9};
    for (int i = 0; i < 50; i++) {
        from = seconds();
        Writes found = writes_since(&watch, low, high);
        double took = seconds() - from;
        best[0] = took < best[0] ? took : best[0];
        from = seconds();
        bool unseen = writes_may_be_unseen();
        took = seconds() - from;
        best[1] = took < best[1] ? took : best[1];
        if (found != WRITES_NONE || unseen) {
            return 1;
        }
    }
    printf("look %.1f\nof which %.1f\n", best[0] * 1e6, best[1] * 1e6);
    return 0;
}

int
main(int argc, char **argv)
{
    static const Command commands[] = {
        {"seen", 2, seen},           {"again", 0, again},
        {"untouched", 1, untouched}, {"child", 0, child},
        {"kind", 1, kind},           {"limit", 0, limit},
        {"pages", 2, pages},         {"library", 1, library},
        {"pinned", 0, pinned},       {"time", 2, measure},
    };
    return run_command(commands, sizeof(commands) / sizeof(*commands), argc,
                       argv);
}
