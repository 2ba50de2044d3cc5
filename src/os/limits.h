/* How much of what a process may have at most? */
#ifndef SAMEMAP_LIMITS_H
#define SAMEMAP_LIMITS_H

/* Mappings that one process may have; LONG_MAX where nothing limits them. */
long limits_maps(void);

/* Descriptors that this process may have open now. */
long limits_descriptors(void);

/* A flag of mmap(2): the pages of a private mapping count against the system's
 * memory when they are written, and not all of them before. 0: there is none.
 */
int limits_unreserved(void);

#endif
