/* Owns the question to seccomp. A filter may answer a call with a signal that
 * can't be caught, and the process can't read its filters: so where it has any,
 * a child tries first.
 *
 * The child is made by clone itself: fork's handlers (of OpenBLAS, of malloc)
 * are not for a process that lives for one call. No signal tells the parent of
 * its end, so that nobody else waits for it.
 */
#include "os/seccomp.h"

#include "os/textfile.h"

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

/* As in <linux/memfd.h> and <linux/userfaultfd.h>, which may be older. */
#define MEMFD_FLAGS (0x0001U | 0x0008U)
#define UFFD_USER_MODE_ONLY 1

/* The calls are made as memfile_linux.c and writes_linux.c make them. */
static void
make_call(SeccompCall call)
{
    if (call == SECCOMP_MEMFD) {
#ifdef SYS_memfd_create
        syscall(SYS_memfd_create, "samemap", MEMFD_FLAGS);
        syscall(SYS_memfd_create, "samemap", 0x0001U | 0x0002U);
#endif
    } else {
#ifdef SYS_userfaultfd
        syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | UFFD_USER_MODE_ONLY);
#endif
    }
}

/* This thread has filters; true as well where nobody tells. */
static bool
has_filters(void)
{
    char text[TEXTFILE_SIZE];
    /* A kernel without seccomp has no such line. */
    return !textfile_read("/proc/thread-self/status", text) ||
           textfile_number(text, "Seccomp:") > 0;
}

static bool
survives(SeccompCall call)
{
    int status;
    /* All zero, so the order, which depends on the machine, doesn't matter. */
    long pid = syscall(SYS_clone, 0UL, 0UL, 0UL, 0UL, 0UL);
    if (pid == 0) {
        /* No core of all that the parent has in memory. */
        prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
        make_call(call);
        syscall(SYS_exit_group, 0);
        for (;;) {
        }
    }
    if (pid < 0) {
        return false;
    }
    while (waitpid((pid_t)pid, &status, __WCLONE) < 0) {
        if (errno != EINTR) {
            return false;
        }
    }
    return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

bool
seccomp_allows(SeccompCall call)
{
    /* The process that asked, with its sign telling the answer. */
    static _Atomic long answers[SECCOMP_CALLS];
    long pid = (long)getpid();
    long answer = atomic_load(&answers[call]);
    if (answer != pid && answer != -pid) {
        answer = !has_filters() || survives(call) ? pid : -pid;
        atomic_store(&answers[call], answer);
    }
    return answer > 0;
}
