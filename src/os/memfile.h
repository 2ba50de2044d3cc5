/* Memory that is a file without a name, which other processes can map.
 *
 * On Linux a memfd or, where that is forbidden, an unnamed file in a folder. It
 * is gone with the last descriptor and the last map, whatever kills its
 * processes. Plain C as all of os/.
 */
#ifndef SAMEMAP_MEMFILE_H
#define SAMEMAP_MEMFILE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Large pages: memory on them is filled, mapped and freed many times as fast. A
 * block is one of them, and begins at its multiples in file and memory. */
#define MEMFILE_BLOCK ((size_t)1 << 21)

typedef struct {
    int fd; /* close-on-exec, for reading and writing; or -1 */
    int64_t size;
    bool in_memory; /* not on a disk */
    bool sealable;
} MemFile;

#define MEMFILE_INIT {-1, 0, false, false}

/* What was learned of large pages; one for the files of a process, used by one
 * thread at a time or by several: a lost update costs time only. */
typedef struct {
    bool refused;  /* the system has none */
    int64_t until; /* none before that time (nanoseconds, monotonic): they were
                    * slow to be had */
    int64_t pause; /* how long that was the last time; 0 after a success */
} LargePages;

/* Fills *file with a new file of `size` bytes, all zero: 0, or -1 with errno.
 * `folder` is where the user wants temporary files, or NULL: one that is on a
 * disk is obeyed, one in memory serves where memfd is forbidden. EFBIG beyond
 * RLIMIT_FSIZE. */
int memfile_create(MemFile *file, const char *folder, int64_t size);

/* Writes [data, data + length) at `offset`: 0, or -1 with errno, and then any
 * part may have been written: ENOSPC, ENOMEM, EFBIG, EFAULT. Writes nothing
 * outside, not even zeros into the same page, and leaves nothing mapped. */
int memfile_fill(const MemFile *file, LargePages *pages, int64_t offset,
                 const char *data, size_t length);

/* The file has the bytes [data, data + length) at `offset`. Leaves nothing
 * mapped. */
bool memfile_equals(const MemFile *file, int64_t offset, const char *data,
                    size_t length);

/* Makes large pages of zeros for the whole blocks of a new file, for as long as
 * they can be had: whoever writes there then has no page to make. */
void memfile_populate(const MemFile *file, LargePages *pages);

/* Takes the room for all of a file whose file system has a size of its own, for
 * whoever writes through a map: what finds no room there is killed by SIGBUS.
 * 0, or -1 with errno. */
int memfile_secure(const MemFile *file);

/* The file can't become longer any more and, if asked, not shorter: 0, or -1
 * with errno. Nothing happens to a file that can't be sealed. */
int memfile_seal(const MemFile *file, bool shrink);

/* The file can't become shorter any more: somebody has said so. */
bool memfile_is_sealed(int fd);

/* Bytes that may still be written to the file before the system refuses or
 * kills: memory that is available, limits of the control group, of the process,
 * and of the file system. An estimate of that moment, at the price of reading
 * some small files (0.1 ms): ask once for many. */
int64_t memfile_room(const MemFile *file);

/* Closes the descriptor, if there is one. */
void memfile_close(MemFile *file);

/* Addresses that are free until somebody maps something: the next mapping of
 * exactly that length lands there, in all likelihood. */
typedef struct {
    char *start; /* of the reservation around them, or NULL */
    size_t length;
    char *hole; /* a multiple of MEMFILE_BLOCK */
    size_t hole_length;
} MemfileHole;

/* Makes the next map of `length` bytes begin at a multiple of MEMFILE_BLOCK:
 * for mmap.mmap, which takes no address. Maps of less than a block, and
 * failures, make a hole that does nothing. */
void memfile_reserve(MemfileHole *hole, size_t length);

/* Gives the rest of the reservation back. */
void memfile_release(MemfileHole *hole);

#endif
