/* Which system was this built for? */
#ifndef SAMEMAP_SYSTEM_H
#define SAMEMAP_SYSTEM_H

/* As in the names of the files of this folder: "linux", or "none" for a seam
 * that knows nothing. */
const char *system_name(void);

#endif
