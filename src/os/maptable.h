/* Which file backs this address? The operating system's answer. */
#ifndef SAMEMAP_MAPTABLE_H
#define SAMEMAP_MAPTABLE_H

#include <limits.h>
#include <stdbool.h>
#include <stdint.h>

typedef enum {
    MAPTABLE_AUTO,  /* the fastest source that the system has */
    MAPTABLE_IOCTL, /* PROCMAP_QUERY only (Linux 6.11) */
    MAPTABLE_TEXT,  /* the text of /proc/self/maps only */
    MAPTABLE_NONE,  /* as on a system without a map table */
} MapTableSource;

/* The open descriptor belongs to one process: a forked child that used it
 * would be told about its parent's memory. */
typedef struct {
    MapTableSource source;
    int fd;            /* of /proc/self/maps, or -1 */
    uint64_t dev, ino; /* of that: a closed descriptor's number is used again */
    long pid;          /* that opened it */
    bool no_ioctl;     /* the kernel doesn't know PROCMAP_QUERY */
} MapTable;

#define MAPTABLE_PATH_SIZE (PATH_MAX + 64)

/* One entry of the table, or a run of entries that continue each other. */
typedef struct {
    uintptr_t start, end; /* addresses, page-aligned; end is exclusive */
    uint64_t file_offset; /* bytes, of `start` in the file */
    uint64_t inode;       /* 0: no file */
    uint32_t dev_major, dev_minor;
    bool readable, writable, shared;
    /* As the kernel prints it: bytes in no particular encoding, " (deleted)"
     * at the end of an unlinked one, empty or "[heap]" without a file, cut or
     * empty when it is too long to be opened. */
    char path[MAPTABLE_PATH_SIZE];
} MapEntry;

#define MAPTABLE_INIT {MAPTABLE_AUTO, -1, 0, 0, 0, false}

/* Fills `entry` with the run of entries around [low, high) that map one file
 * contiguously and in one way; access is what all of them allow.
 * 1 found; 0 when no single file backs all of the range, and then `shared` is
 * that of the entry at `low`; -1 when the system has no table to ask. */
int maptable_find(MapTable *table, uintptr_t low, uintptr_t high,
                  MapEntry *entry);

/* False where an answer can't be had by design (another operating system, or
 * MAPTABLE_NONE), true where -1 means that something is wrong (no /proc). */
bool maptable_is_expected(const MapTable *table);

/* True when every answer costs a reading of the whole table. */
bool maptable_is_slow(const MapTable *table);

/* Both entries are of the same file (the table's own numbers compared). */
static inline bool
maptable_same_file(const MapEntry *a, const MapEntry *b)
{
    return a->inode == b->inode && a->dev_major == b->dev_major &&
           a->dev_minor == b->dev_minor;
}

/* The device of the file, as stat numbers devices. */
uint64_t maptable_device(const MapEntry *entry);

/* The file of `entry` is one in name only: shared memory that nobody can
 * open. */
bool maptable_is_nameless(const MapEntry *entry);

/* Forgets the descriptor (in a forked child: that of the parent). */
void maptable_close(MapTable *table);

#endif
