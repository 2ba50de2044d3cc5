/* Owns the questions to Linux about single pages.
 *
 * A page of a private file mapping is the process's own when it is there (in
 * memory or swapped out) and isn't a page of the file any more.
 */
#include "os/pagemap.h"

#include "os/page.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <sys/ioctl.h>
#include <sys/uio.h>
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
    if (found < 0) {
        found = read_entries(fd, low, high, range);
    }
    close(fd);
    return found;
}

/* The system copies where we would fault: one byte of each page. */
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
        while (n < BATCH && low < high) {
            remote[n++] = (struct iovec){(void *)low, 1};
            low = (low / page + 1) * page;
        }
        struct iovec local = {bytes, n};
        ssize_t got = process_vm_readv(self, &local, 1, remote, n, 0);
        if (got < 0 && errno != EFAULT) {
            return 1; /* not allowed here (seccomp) */
        }
        if (got != (ssize_t)n) {
            return 0;
        }
    }
    return 1;
}
