/* Owns the answers of a system without a pagemap: which pages were modified it
 * can't tell, but whether they can be read.
 */
#include "os/pagemap.h"

#include "os/page.h"

#include <errno.h>
#include <sys/uio.h>
#include <unistd.h>

int
pagemap_next_modified(PagemapSource source, uintptr_t low, uintptr_t high,
                      PageRange *range)
{
    (void)source, (void)low, (void)high, (void)range;
    return -1;
}

/* One byte of each page goes through the pipe `ends`: a write from where we
 * would be killed fails, or is short, on every system known. */
static int
readable_by(const int ends[2], uintptr_t low, uintptr_t high)
{
    enum { BATCH = 256 }; /* less than a pipe holds, and IOV_MAX */
    char bytes[BATCH];
    struct iovec pages[BATCH];
    const uintptr_t page = page_size();
    uintptr_t next = low;

    while (next < high) {
        int n = 0;
        for (; n < BATCH && next < high; n++) {
            pages[n] = (struct iovec){(void *)next, 1};
            next = (next / page + 1) * page;
        }
        ssize_t written = writev(ends[1], pages, n);
        if (written != n) {
            return written < 0 && errno != EFAULT;
        }
        if (read(ends[0], bytes, BATCH) != n) {
            return 1;
        }
    }
    return 1;
}

int
pagemap_readable(uintptr_t low, uintptr_t high)
{
    int ends[2];
    if (pipe(ends) < 0) {
        return 1;
    }
    int readable = readable_by(ends, low, high);
    close(ends[0]);
    close(ends[1]);
    return readable;
}

int
pagemap_shows(uintptr_t low, uintptr_t high, uint64_t file_offset, int fd)
{
    (void)low, (void)high, (void)file_offset, (void)fd;
    return -1;
}
