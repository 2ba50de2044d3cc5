/* How much of what a process may have at most? */
#ifndef SAMEMAP_LIMITS_H
#define SAMEMAP_LIMITS_H

/* Mappings that one process may have; LONG_MAX where nothing limits them. */
long limits_maps(void);

/* Descriptors that this process may have open now. */
long limits_descriptors(void);

#endif
