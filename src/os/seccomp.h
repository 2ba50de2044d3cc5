/* May this process make a system call, or would that be its end? */
#ifndef SAMEMAP_SECCOMP_H
#define SAMEMAP_SECCOMP_H

#include <stdbool.h>

/* Calls that sandboxes forbid more often than others. */
typedef enum {
    SECCOMP_MEMFD,
    SECCOMP_USERFAULTFD,
    SECCOMP_CALLS, /* how many there are */
} SeccompCall;

/* False: the call kills. True: it returns, maybe with an error. Asked once a
 * process. */
bool seccomp_allows(SeccompCall call);

#endif
