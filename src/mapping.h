/* A run of mapped memory that shows a part of one file. */
#ifndef SAMEMAP_MAPPING_H
#define SAMEMAP_MAPPING_H

#include <stdbool.h>
#include <stdint.h>

/* How the memory may be used. Written into messages as these numbers. */
enum {
    MAPPING_READABLE = 0,
    MAPPING_WRITABLE = 1 << 0,
    MAPPING_PRIVATE = 1 << 1,
    /* Memory that was made to be shared, with every process that gets it: never
     * private, always writable. */
    MAPPING_REQUESTED = 1 << 2,
    /* Memory made for one message, whose maker may be gone soon: always private
     * and writable. */
    MAPPING_EXPORT = 1 << 3,
};

/* Of these numbers, one that a mapping can have. */
static inline bool
access_is_valid(long access)
{
    return access >= 0 &&
           (access <= (MAPPING_WRITABLE | MAPPING_PRIVATE) ||
            access == (MAPPING_WRITABLE | MAPPING_REQUESTED) ||
            access == (MAPPING_WRITABLE | MAPPING_PRIVATE | MAPPING_EXPORT));
}

typedef struct {
    char *start;          /* address of the first byte */
    intptr_t length;      /* bytes */
    uint64_t file_offset; /* bytes, of `start` in the file; page-aligned */
    unsigned access;      /* of the above, together */
} Mapping;

static inline bool
mapping_covers(const Mapping *mapping, const char *low, const char *high)
{
    return low >= mapping->start && high <= mapping->start + mapping->length;
}

static inline bool
mapping_is_private(const Mapping *mapping)
{
    return mapping->access & MAPPING_PRIVATE;
}

static inline bool
mapping_is_writable(const Mapping *mapping)
{
    return mapping->access & MAPPING_WRITABLE;
}

/* What is written there, others see. */
static inline bool
access_writes_through(unsigned access)
{
    return access & MAPPING_WRITABLE && !(access & MAPPING_PRIVATE);
}

static inline bool
mapping_writes_through(const Mapping *mapping)
{
    return access_writes_through(mapping->access);
}

#endif
