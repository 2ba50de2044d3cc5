/* Was this memory written since?
 *
 * On Linux 6.7 userfaultfd protects pages so that the first write to each marks
 * it and goes on; nobody waits, and no signal is sent. What was not armed, or
 * may have been written past the protection, is not known, and never taken for
 * unwritten.
 *
 * For private memory without a file only (malloc, anonymous maps), and for
 * whole pages. Plain C as all of os/.
 */
#ifndef SAMEMAP_WRITES_H
#define SAMEMAP_WRITES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef enum {
    WRITES_NONE,    /* proven: every byte is what it was when it was armed */
    WRITES_SOME,    /* some page was written, if only with what it had */
    WRITES_UNKNOWN, /* other memory is there now, or it can't be told */
} Writes;

/* Each range costs entries in the process's table of maps. */
#define WRITES_RANGES 100

/* What watches the ranges; one a process. A forked child has none of them: it
 * closes its copy. */
typedef struct {
    int fd;       /* userfaultfd, or -1 */
    int pagemap;  /* /proc/self/pagemap, or -1 */
    long pid;     /* that opened them */
    int armed;    /* ranges */
    bool refused; /* the system has no such thing, or forbids it */
} WriteWatch;

#define WRITEWATCH_INIT {-1, -1, 0, 0, false}

/* The pages that lie wholly in [data, data + length): false when there are
 * none. What is before and after them has to be compared. */
bool writes_pages(const void *data, size_t length, uintptr_t *low,
                  uintptr_t *high);

/* From now on the writes to [low, high) are seen; again for the same range,
 * from now on anew. To know what the memory held, read all of it after this. 0,
 * or -1 with errno: ENOSYS or EPERM where the system has no such thing, EBUSY
 * when somebody else watches it, ENOSPC when too many ranges are armed, EINVAL
 * for memory of another kind. */
int writes_arm(WriteWatch *watch, uintptr_t low, uintptr_t high);

/* Since [low, high) was armed. Whoever frees the memory must have forgotten the
 * range before: another one at the same place may be armed. */
Writes writes_since(WriteWatch *watch, uintptr_t low, uintptr_t high);

/* Forgets an armed range; its memory may be gone. */
void writes_disarm(WriteWatch *watch, uintptr_t low, uintptr_t high);

/* In this process devices or the kernel may write to memory without being seen
 * (pinned pages): nothing is ever proven then. */
bool writes_may_be_unseen(void);

/* All ranges are forgotten. In a forked child it closes what it has inherited;
 * the parent's ranges stay armed. */
void writes_close(WriteWatch *watch);

#endif
