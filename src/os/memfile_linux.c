/* Owns the making and filling of memory files on Linux.
 *
 * Shared memory costs its pages: 4 KB ones take 1 us each to be made. Large
 * ones an ordinary user gets by MADV_COLLAPSE (Linux 6.1) alone, whatever the
 * system's setting for shared memory, and only where the block has a page
 * already. Invariant: nothing is stored through a map before its page is there,
 * because where none can be had a store is SIGBUS, and a write an error.
 */
#include "os/memfile.h"

#include "os/page.h"
#include "os/room.h"
#include "os/seccomp.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <time.h>
#include <unistd.h>

/* From headers that may be older than the kernel. */
#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif
#ifndef F_ADD_SEALS
#define F_ADD_SEALS 1033
#define F_GET_SEALS 1034
#define F_SEAL_SHRINK 0x0002
#define F_SEAL_GROW 0x0004
#endif
#define MEMFD_CLOEXEC 0x0001U
#define MEMFD_ALLOW_SEALING 0x0002U
#define MEMFD_NOEXEC_SEAL 0x0008U /* Linux 6.3; allows sealing too */
#define TMPFS_TYPE 0x01021994

/* So much is mapped and filled at once: in one piece 160 MB take a third
 * longer, as the pages leave the caches between clearing and copying. */
#define PIECE (4 * MEMFILE_BLOCK)

/* A block on a large page saves its reader and its end more than it costs here,
 * up to this much (nanoseconds of the thread, in which it doesn't count that
 * others have the processor): 512 small pages cost 0.5 ms, or several times
 * that where a virtual machine has to get the memory first. Where memory is in
 * pieces and the kernel moves pages to make a large one, it may take far
 * longer. */
#define BLOCK_COST 2000000
#define FORGIVEN 20000000

/* After that large pages are given up for so long: one delay may be that of a
 * busy machine, so from the shorter to the longer. */
#define SHORT_PAUSE 50000000
#define LONG_PAUSE 10000000000

static int
create_memfd(MemFile *file)
{
#ifdef SYS_memfd_create
    if (!seccomp_allows(SECCOMP_MEMFD)) {
        errno = EPERM;
        return -1;
    }
    file->fd = (int)syscall(SYS_memfd_create, "samemap",
                            MEMFD_CLOEXEC | MEMFD_NOEXEC_SEAL);
    if (file->fd < 0 && errno == EINVAL) {
        file->fd = (int)syscall(SYS_memfd_create, "samemap",
                                MEMFD_CLOEXEC | MEMFD_ALLOW_SEALING);
    }
    file->in_memory = file->sealable = file->fd >= 0;
    return file->fd >= 0 ? 0 : -1;
#else
    (void)file;
    errno = ENOSYS;
    return -1;
#endif
}

/* With O_EXCL it can't be given a name later. */
static int
create_in(MemFile *file, const char *folder)
{
    struct statfs status;
    file->fd = open(folder, O_TMPFILE | O_EXCL | O_RDWR | O_CLOEXEC,
                    S_IRUSR | S_IWUSR);
    if (file->fd < 0) {
        return -1;
    }
    file->in_memory =
        fstatfs(file->fd, &status) == 0 && status.f_type == TMPFS_TYPE;
    return 0;
}

static bool
is_on_disk(const char *folder)
{
    struct statfs status;
    return statfs(folder, &status) == 0 && status.f_type != TMPFS_TYPE;
}

static int
create_anywhere(MemFile *file, const char *folder)
{
    if (folder != NULL && is_on_disk(folder)) {
        return create_in(file, folder);
    }
    if (create_memfd(file) == 0) {
        return 0;
    }
    /* Other errors (EMFILE, ENOMEM) another way wouldn't help. */
    if (errno != EPERM && errno != ENOSYS && errno != EACCES) {
        return -1;
    }
    if (folder != NULL && create_in(file, folder) == 0) {
        return 0;
    }
    return create_in(file, "/dev/shm");
}

int
memfile_create(MemFile *file, const char *folder, int64_t size)
{
    *file = (MemFile)MEMFILE_INIT;
    if (create_anywhere(file, folder) < 0) {
        return -1;
    }
    if (ftruncate(file->fd, size) < 0) {
        int error = errno;
        memfile_close(file);
        errno = error;
        return -1;
    }
    file->size = size;
    return 0;
}

void
memfile_close(MemFile *file)
{
    if (file->fd >= 0) {
        close(file->fd);
    }
    *file = (MemFile)MEMFILE_INIT;
}

int
memfile_secure(const MemFile *file)
{
    /* What can be sealed is a memfd, which is in no such file system. */
    errno = file->sealable ? 0 : posix_fallocate(file->fd, 0, file->size);
    return errno == 0 ? 0 : -1;
}

int
memfile_seal(const MemFile *file, bool shrink)
{
    int seals = F_SEAL_GROW | (shrink ? F_SEAL_SHRINK : 0);
    return file->sealable ? fcntl(file->fd, F_ADD_SEALS, seals) : 0;
}

bool
memfile_is_sealed(int fd)
{
    int seals = fcntl(fd, F_GET_SEALS);
    return seals >= 0 && seals & F_SEAL_SHRINK;
}

int64_t
memfile_room(const MemFile *file)
{
    int64_t room = room_in_file(file->fd);
    if (file->in_memory) {
        int64_t memory = room_in_memory("");
        room = memory < room ? memory : room;
    }
    return room;
}

static int
write_all(int fd, int64_t offset, const char *data, size_t length)
{
    while (length > 0) {
        ssize_t n = pwrite(fd, data, length, (off_t)offset);
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n <= 0) {
            /* Nothing written, and no error: no file system does that. */
            errno = n == 0 ? ENOSPC : errno;
            return -1;
        }
        data += n;
        offset += n;
        length -= (size_t)n;
    }
    return 0;
}

static int64_t
read_clock(clockid_t clock)
{
    struct timespec time;
    clock_gettime(clock, &time);
    return (int64_t)time.tv_sec * 1000000000 + time.tv_nsec;
}

/* Makes the blocks of [offset, offset + length) large pages at `address`: true
 * when all of them are. Every block has then got a byte of `data`, or of zeros
 * if that is NULL. */
static bool
make_large(int fd, int64_t offset, char *address, const char *data,
           size_t length)
{
    void *map = mmap(address, length, PROT_READ | PROT_WRITE,
                     MAP_SHARED | MAP_FIXED, fd, (off_t)offset);
    if (map == MAP_FAILED) {
        return false;
    }
    /* A child that another thread forks now would keep the memory. */
    madvise(map, length, MADV_DONTFORK);
    for (size_t at = 0; at < length; at += MEMFILE_BLOCK) {
        const char *byte = data != NULL ? data + at : "";
        if (pwrite(fd, byte, 1, (off_t)(offset + (int64_t)at)) != 1) {
            return false;
        }
    }
    return madvise(map, length, MADV_COLLAPSE) == 0;
}

static void
give_up(LargePages *pages)
{
    int64_t pause = 4 * pages->pause;
    pause = pause < SHORT_PAUSE  ? SHORT_PAUSE
            : pause > LONG_PAUSE ? LONG_PAUSE
                                 : pause;
    pages->pause = pause;
    pages->until = read_clock(CLOCK_MONOTONIC) + pause;
}

/* Fills whole blocks with `data`, or zeros if that is NULL, for as long as
 * large pages can be had, and soon: how many bytes it filled. `window` has room
 * for a piece. */
static size_t
fill_blocks(int fd, LargePages *pages, int64_t offset, const char *data,
            size_t length, char *window)
{
    size_t done = 0;
    int64_t allowed = FORGIVEN;
    while (done < length) {
        size_t piece = length - done < PIECE ? length - done : PIECE;
        int64_t start = read_clock(CLOCK_THREAD_CPUTIME_ID);
        bool large = make_large(fd, offset + (int64_t)done, window,
                                data != NULL ? data + done : NULL, piece);
        int error = errno;
        int64_t end = read_clock(CLOCK_THREAD_CPUTIME_ID);
        if (!large) {
            /* The kernel doesn't know it, or not for shared memory. */
            pages->refused |= error == EINVAL || error == ENOSYS;
            give_up(pages);
            break;
        }
        if (data != NULL) {
            memcpy(window, data + done, piece);
        }
        done += piece;
        allowed +=
            (int64_t)(piece / MEMFILE_BLOCK) * BLOCK_COST - (end - start);
        if (allowed < 0) {
            give_up(pages);
            return done;
        }
    }
    pages->pause = done == length ? 0 : pages->pause;
    return done;
}

/* How many bytes of whole blocks it filled, from the first one in the range. */
static size_t
fill_large(int fd, LargePages *pages, int64_t offset, const char *data,
           size_t length)
{
    size_t room = (length < PIECE ? length : PIECE) + MEMFILE_BLOCK;
    char *reserved = mmap(NULL, room, PROT_NONE,
                          MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (reserved == MAP_FAILED) {
        return 0;
    }
    size_t skip = -(uintptr_t)reserved & (MEMFILE_BLOCK - 1);
    size_t done = fill_blocks(fd, pages, offset, data, length, reserved + skip);
    munmap(reserved, room);
    return done;
}

static bool
may_be_large(const MemFile *file, const LargePages *pages)
{
    return file->in_memory && !pages->refused &&
           read_clock(CLOCK_MONOTONIC) >= pages->until;
}

int
memfile_fill(const MemFile *file, LargePages *pages, int64_t offset,
             const char *data, size_t length)
{
    size_t head = (size_t)-offset & (MEMFILE_BLOCK - 1);
    if (length >= MEMFILE_BLOCK && length - MEMFILE_BLOCK >= head &&
        may_be_large(file, pages)) {
        size_t blocks = (length - head) / MEMFILE_BLOCK * MEMFILE_BLOCK;
        if (write_all(file->fd, offset, data, head) < 0) {
            return -1;
        }
        head += fill_large(file->fd, pages, offset + (int64_t)head, data + head,
                           blocks);
        offset += (int64_t)head;
        data += head;
        length -= head;
    }
    return write_all(file->fd, offset, data, length);
}

static bool
read_equals(int fd, int64_t offset, const char *data, size_t length)
{
    char buffer[1 << 14];
    while (length > 0) {
        size_t part = length < sizeof(buffer) ? length : sizeof(buffer);
        ssize_t n = pread(fd, buffer, part, (off_t)offset);
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n <= 0 || memcmp(buffer, data, (size_t)n) != 0) {
            return false;
        }
        data += n;
        offset += n;
        length -= (size_t)n;
    }
    return true;
}

/* The same through a map at `window`, a place for a piece and a block. */
static bool
map_equals(int fd, int64_t offset, const char *data, size_t length,
           char *window)
{
    while (length > 0) {
        size_t skip = (size_t)offset & (MEMFILE_BLOCK - 1);
        size_t part = length < PIECE ? length : PIECE;
        if (mmap(window, skip + part, PROT_READ, MAP_SHARED | MAP_FIXED, fd,
                 (off_t)(offset - (int64_t)skip)) == MAP_FAILED) {
            return read_equals(fd, offset, data, length);
        }
        if (memcmp(window + skip, data, part) != 0) {
            return false;
        }
        data += part;
        offset += (int64_t)part;
        length -= part;
    }
    return true;
}

bool
memfile_equals(const MemFile *file, int64_t offset, const char *data,
               size_t length)
{
    size_t room = PIECE + 2 * MEMFILE_BLOCK;
    char *reserved = MAP_FAILED;
    if (length >= MEMFILE_BLOCK) {
        reserved = mmap(NULL, room, PROT_NONE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    }
    if (reserved == MAP_FAILED) {
        return read_equals(file->fd, offset, data, length);
    }
    size_t skip = -(uintptr_t)reserved & (MEMFILE_BLOCK - 1);
    bool result = map_equals(file->fd, offset, data, length, reserved + skip);
    munmap(reserved, room);
    return result;
}

void
memfile_populate(const MemFile *file, LargePages *pages)
{
    size_t blocks = (size_t)file->size / MEMFILE_BLOCK * MEMFILE_BLOCK;
    if (blocks > 0 && may_be_large(file, pages)) {
        fill_large(file->fd, pages, 0, NULL, blocks);
    }
}

void
memfile_reserve(MemfileHole *hole, size_t length)
{
    *hole = (MemfileHole){NULL, 0, NULL, 0};
    size_t page = page_size(), rounded, all;
    if (length < MEMFILE_BLOCK ||
        __builtin_add_overflow(length, page - 1, &rounded)) {
        return;
    }
    rounded &= ~(page - 1);
    if (__builtin_add_overflow(rounded, MEMFILE_BLOCK, &all)) {
        return;
    }
    char *start = mmap(NULL, all, PROT_NONE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (start == MAP_FAILED) {
        return;
    }
    char *aligned = start + (-(uintptr_t)start & (MEMFILE_BLOCK - 1));
    munmap(aligned, rounded);
    *hole = (MemfileHole){start, all, aligned, rounded};
}

void
memfile_release(MemfileHole *hole)
{
    if (hole->start == NULL) {
        return;
    }
    size_t before = (size_t)(hole->hole - hole->start);
    size_t after = hole->length - before - hole->hole_length;
    if (before > 0) {
        munmap(hole->start, before);
    }
    if (after > 0) {
        munmap(hole->hole + hole->hole_length, after);
    }
    hole->start = NULL;
}
