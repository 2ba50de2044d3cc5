/* How large is a page of memory? */
#ifndef SAMEMAP_PAGE_H
#define SAMEMAP_PAGE_H

#include <stddef.h>

/* Bytes; a power of two. Maps begin and end at its multiples. */
size_t page_size(void);

#endif
