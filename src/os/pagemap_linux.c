/* Owns the questions to Linux about single pages.
 *
 * A page of a private file mapping is the process's own when it is there (in
 * memory or swapped out) and isn't a page of the file any more.
 */
#include "os/pagemap.h"

#include "os/page.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/futex.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

/* From <linux/fs.h> of Linux 6.7, as in maptable_linux.c. */
struct page_region {
    uint64_t start, end, categories;
};
struct pm_scan_arg {
    uint64_t size, flags, start, end, walk_end, vec, vec_len, max_pages;
    uint64_t category_inverted, category_mask, category_anyof_mask;
    uint64_t return_mask;
};
#define PAGEMAP_SCAN_IOCTL _IOWR('f', 16, struct pm_scan_arg)
#define PAGE_IS_FILE (1 << 2)
#define PAGE_IS_PRESENT (1 << 3)
#define PAGE_IS_SWAPPED (1 << 4)

/* Bits of the 64-bit entries that reading /proc/self/pagemap gives. */
#define ENTRY_EXCLUSIVE (UINT64_C(1) << 56) /* mapped in one place only */
#define ENTRY_FILE (UINT64_C(1) << 61)
#define ENTRY_SWAPPED (UINT64_C(1) << 62)
#define ENTRY_PRESENT (UINT64_C(1) << 63)

static int
scan(int fd, uintptr_t low, uintptr_t high, PageRange *range)
{
    struct page_region region;
    struct pm_scan_arg arg = {
        .size = sizeof(arg),
        .start = low,
        .end = high,
        .vec = (uintptr_t)&region,
        .vec_len = 1,
        .category_inverted = PAGE_IS_FILE,
        .category_mask = PAGE_IS_FILE,
        .category_anyof_mask = PAGE_IS_PRESENT | PAGE_IS_SWAPPED,
    };
    int n = ioctl(fd, PAGEMAP_SCAN_IOCTL, &arg);
    if (n > 0) {
        range->start = (uintptr_t)region.start;
        range->end = (uintptr_t)region.end;
    }
    return n;
}

static int
read_entries(int fd, uintptr_t low, uintptr_t high, PageRange *range)
{
    uint64_t entries[512];
    const size_t page = page_size();
    bool inside = false;

    while (low < high) {
        size_t count = (high - low) / page;
        if (count > sizeof(entries) / sizeof(*entries)) {
            count = sizeof(entries) / sizeof(*entries);
        }
        size_t nbytes = count * sizeof(*entries);
        off_t offset = (off_t)(low / page * sizeof(*entries));
        if (pread(fd, entries, nbytes, offset) != (ssize_t)nbytes) {
            return -1;
        }
        for (size_t i = 0; i < count; i++, low += page) {
            bool modified = (entries[i] & (ENTRY_PRESENT | ENTRY_SWAPPED)) &&
                            !(entries[i] & ENTRY_FILE);
            if (modified && !inside) {
                range->start = low;
                inside = true;
            } else if (!modified && inside) {
                range->end = low;
                return 1;
            }
        }
    }
    range->end = high;
    return inside;
}

int
pagemap_next_modified(PagemapSource source, uintptr_t low, uintptr_t high,
                      PageRange *range)
{
    if (low >= high) {
        return 0;
    }
    int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        return -1;
    }
    int found = source == PAGEMAP_ENTRIES ? -1 : scan(fd, low, high, range);
    if (found < 0 && source != PAGEMAP_IOCTL) {
        found = read_entries(fd, low, high, range);
    }
    close(fd);
    return found;
}

/* The system reads from the address as a program would, and says EFAULT where
 * that would be killed: it looks at the new signal mask before it looks at what
 * to do with it, which is nothing. */
static bool
can_read(uintptr_t address)
{
    uintptr_t aligned = address & ~(uintptr_t)7;
    return syscall(SYS_rt_sigprocmask, ~0, aligned, NULL, 8) == 0 ||
           errno != EFAULT;
}

/* The system copies where we would fault: one byte of each page. That is quick,
 * but not allowed everywhere (seccomp) and never for secret memory, which its
 * owner can read all the same. */
int
pagemap_readable(uintptr_t low, uintptr_t high)
{
    enum { BATCH = 256 };
    char bytes[BATCH];
    struct iovec remote[BATCH];
    const uintptr_t page = page_size();
    const pid_t self = getpid();

    while (low < high) {
        size_t n = 0;
        for (uintptr_t next = low; n < BATCH && next < high; n++) {
            remote[n] = (struct iovec){(void *)next, 1};
            next = (next / page + 1) * page;
        }
        struct iovec local = {bytes, n};
        ssize_t got = process_vm_readv(self, &local, 1, remote, n, 0);
        if (got < 0 && errno != EFAULT) {
            return 1;
        }
        size_t done = got > 0 ? (size_t)got : 0;
        if (done < n && !can_read((uintptr_t)remote[done].iov_base)) {
            return 0;
        }
        /* Past the last page that could be read, one way or the other. */
        done = done < n ? done : n - 1;
        low = ((uintptr_t)remote[done].iov_base / page + 1) * page;
    }
    return 1;
}

/* The entry of the page at `address`; 0, as for a page that is not there, when
 * it can't be read. */
static uint64_t
read_entry(int pagemap, uintptr_t address)
{
    uint64_t entry;
    off_t offset = (off_t)(address / page_size() * sizeof(entry));
    return pread(pagemap, &entry, sizeof(entry), offset) == sizeof(entry)
               ? entry
               : 0;
}

/* How often the page at `address` is mapped: 1, 2 for more than once, 0 when it
 * is not there or no page of a file. */
static int
count_maps(int pagemap, uintptr_t address)
{
    uint64_t entry = read_entry(pagemap, address);
    if (!(entry & ENTRY_PRESENT) || !(entry & ENTRY_FILE)) {
        return 0;
    }
    return entry & ENTRY_EXCLUSIVE ? 1 : 2;
}

/* Maps the page of `fd` for a moment: as often as that is done, the page at
 * `address`, mapped once else, must be seen to be mapped twice. 1, 0 or -1 as
 * pagemap_shows. */
static int
follows(int pagemap, uintptr_t address, int fd, off_t offset)
{
    /* More than once: another process might map the same page of another file
     * in that very moment, and unmap it again. */
    enum { ROUNDS = 4 };
    const size_t size = page_size();
    for (int round = 0; round < ROUNDS; round++) {
        void *other =
            mmap(NULL, size, PROT_READ, MAP_SHARED | MAP_POPULATE, fd, offset);
        if (other == MAP_FAILED) {
            return -1;
        }
        int there = count_maps(pagemap, (uintptr_t)other);
        int during = count_maps(pagemap, address);
        munmap(other, size);
        int after = count_maps(pagemap, address);
        if (there == 0 || during == 0 || after != 1) {
            return -1;
        }
        if (during == 1) {
            return 0;
        }
    }
    return 1;
}

typedef struct {
    uint32_t *word;
    atomic_bool stop, woken;
} Waiter;

/* Waits at the word until it is woken there. */
static void *
wait_at_word(void *arg)
{
    Waiter *waiter = arg;
    const struct timespec timeout = {.tv_nsec = 100 * 1000 * 1000};
    while (!atomic_load(&waiter->stop)) {
        uint32_t value = *(volatile uint32_t *)waiter->word;
        if (syscall(SYS_futex, waiter->word, FUTEX_WAIT, value, &timeout, NULL,
                    0) == 0) {
            atomic_store(&waiter->woken, true);
            break;
        }
    }
    return NULL;
}

static long
requeue(uint32_t *from, uint32_t *to)
{
    return syscall(SYS_futex, from, FUTEX_REQUEUE, 0, 1, to, 0);
}

/* A thread that waits at a word of a file is woken at any address that shows
 * the same word of the same file, and at no other: 1 or 0, or -1. Both words
 * are mapped read-only, so nothing is written. */
static int
wakes(uint32_t *word, uint32_t *other)
{
    enum { PATIENCE = 10000 }; /* times 20 us */
    Waiter waiter = {.word = word};
    uint32_t aside = 0;
    pthread_t thread;
    sigset_t all, before;
    bool waiting = false, woke = false;

    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int failed = pthread_create(&thread, NULL, wait_at_word, &waiter);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (failed) {
        return -1;
    }
    for (int i = 0; i < PATIENCE && !waiting; i++) {
        /* Moved aside and back: the thread is known to be waiting. */
        waiting = requeue(word, &aside) == 1 && requeue(&aside, word) == 1;
        if (!waiting) {
            usleep(20);
        }
    }
    if (waiting) {
        woke = syscall(SYS_futex, other, FUTEX_WAKE, 1, NULL, NULL, 0) == 1;
    }
    /* Somebody was woken. Was it the thread? */
    for (int i = 0; i < PATIENCE && woke && !atomic_load(&waiter.woken); i++) {
        usleep(20);
    }
    woke = woke && atomic_load(&waiter.woken);
    atomic_store(&waiter.stop, true);
    syscall(SYS_futex, word, FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
    syscall(SYS_futex, &aside, FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
    pthread_join(thread, NULL);
    return waiting ? woke : -1;
}

/* By two words that depend on the moment, so that another process that does the
 * same at the same time wakes its own threads; threads of this one take turns
 * (in a child that was forked meanwhile nobody gets one). 1, 0 or -1. */
static int
share_words(uint32_t *page, uint32_t *other)
{
    static atomic_flag busy = ATOMIC_FLAG_INIT;
    const size_t words = page_size() / sizeof(uint32_t);
    struct timespec now;
    int result = 1;
    for (int i = 0; atomic_flag_test_and_set(&busy); i++) {
        if (i == 10000) {
            return -1;
        }
        usleep(20);
    }
    for (int round = 0; round < 2 && result == 1; round++) {
        clock_gettime(CLOCK_MONOTONIC, &now);
        size_t index = ((size_t)now.tv_nsec * 31 + (size_t)getpid()) % words;
        result = wakes(page + index, other + index);
    }
    atomic_flag_clear(&busy);
    return result;
}

/* For shared maps, of which a page can be shown at a second address: 1, 0 or -1
 * as pagemap_shows, whoever else has mapped it. */
static int
shares_word(uintptr_t address, int fd, off_t offset)
{
    const size_t size = page_size();
    int result = -1;
    uint32_t *other = MAP_FAILED;
    uint32_t *page = mremap((void *)address, 0, size, MREMAP_MAYMOVE);
    if (page == MAP_FAILED) {
        return -1; /* a private map, for one */
    }
    if (mprotect(page, size, PROT_READ) == 0) {
        other =
            mmap(NULL, size, PROT_READ, MAP_SHARED | MAP_POPULATE, fd, offset);
    }
    if (other != MAP_FAILED &&
        pagemap_readable((uintptr_t)page, (uintptr_t)page + 1) &&
        pagemap_readable((uintptr_t)other, (uintptr_t)other + 1)) {
        result = share_words(page, other);
    }
    if (other != MAP_FAILED) {
        munmap(other, size);
    }
    munmap(page, size);
    return result;
}

int
pagemap_shows(uintptr_t low, uintptr_t high, uint64_t file_offset, int fd)
{
    /* Pages that were modified, or that others map, tell nothing. */
    enum { TRIES = 64 };
    const size_t size = page_size();
    const size_t pages = (high - low + size - 1) / size;
    const size_t tries = pages < TRIES ? pages : TRIES;
    int result = -1;
    int pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
    if (pagemap < 0) {
        return -1;
    }
    for (size_t i = 0; i < tries && result < 0; i++) {
        size_t index = pages / tries * i;
        uintptr_t address = low + index * size;
        if (pagemap_readable(address, address + 1) &&
            count_maps(pagemap, address) == 1) {
            result = follows(pagemap, address, fd,
                             (off_t)(file_offset + index * size));
        }
    }
    close(pagemap);
    return result < 0 ? shares_word(low, fd, (off_t)file_offset) : result;
}
