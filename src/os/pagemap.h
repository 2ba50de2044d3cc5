/* What is in the pages at an address? */
#ifndef SAMEMAP_PAGEMAP_H
#define SAMEMAP_PAGEMAP_H

#include <stdint.h>

typedef struct {
    uintptr_t start, end; /* addresses, page-aligned; end is exclusive */
} PageRange;

typedef enum {
    PAGEMAP_AUTO,    /* the fastest source that the system has */
    PAGEMAP_IOCTL,   /* PAGEMAP_SCAN only (Linux 6.7) */
    PAGEMAP_ENTRIES, /* one entry a page, as before Linux 6.7 */
} PagemapSource;

/* Finds the first run of modified pages in [low, high), both page-aligned.
 * 1 found, 0 none, -1 the system can't tell. */
int pagemap_next_modified(PagemapSource source, uintptr_t low, uintptr_t high,
                          PageRange *range);

/* Reading [low, high) won't raise SIGBUS: 1; a page is past the end of its
 * file: 0. 1 as well where the system can't tell. */
int pagemap_readable(uintptr_t low, uintptr_t high);

/* The pages at [low, high), which show a file from `file_offset` on, are those
 * of the file open as `fd`: 1; they are another file's: 0; -1 when the system
 * can't tell. Pages are read in for it; nothing is written. */
int pagemap_shows(uintptr_t low, uintptr_t high, uint64_t file_offset, int fd);

#endif
