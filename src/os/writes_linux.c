/* Owns the watching of memory by userfaultfd's asynchronous write protection,
 * and the reading of its marks by PAGEMAP_SCAN.
 *
 * A scan for written pages is a tenth of the work of any other, but passes over
 * what isn't there at all: where no page of a block is left (MADV_DONTNEED of a
 * large page), and where nothing is mapped. So a page of each block is looked
 * at beside it. Nobody can read what isn't mapped, so that may pass; what was
 * mapped there since is not watched, and refused.
 */
#include "os/writes.h"

#include "os/page.h"
#include "os/seccomp.h"
#include "os/textfile.h"

#include <errno.h>
#include <fcntl.h>
#include <link.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

/* From <linux/userfaultfd.h> and <linux/fs.h> of Linux 6.7. */
struct uffd_api {
    uint64_t api, features, ioctls;
};
struct uffd_range {
    uint64_t start, len;
};
struct uffd_register {
    struct uffd_range range;
    uint64_t mode, ioctls;
};
struct uffd_protect {
    struct uffd_range range;
    uint64_t mode;
};
struct scan_region {
    uint64_t start, end, categories;
};
struct scan_arg {
    uint64_t size, flags, start, end, walk_end, vec, vec_len, max_pages;
    uint64_t category_inverted, category_mask, category_anyof_mask;
    uint64_t return_mask;
};
#define API_VERSION 0xAA
#define API_WP_UNPOPULATED (UINT64_C(1) << 13)
#define API_WP_ASYNC (UINT64_C(1) << 15)
#define API_IOCTL _IOWR(0xAA, 0x3F, struct uffd_api)
#define REGISTER_IOCTL _IOWR(0xAA, 0x00, struct uffd_register)
#define UNREGISTER_IOCTL _IOR(0xAA, 0x01, struct uffd_range)
#define PROTECT_IOCTL _IOWR(0xAA, 0x06, struct uffd_protect)
#define REGISTER_WP 2
#define PROTECT_WP 1
#define USER_MODE_ONLY 1
#define SCAN_IOCTL _IOWR('f', 16, struct scan_arg)
#define PAGE_WATCHED (1 << 0)
#define PAGE_WRITTEN (1 << 1)
#define PAGE_OF_FILE (1 << 2)
#define PAGE_PRESENT (1 << 3)
#define PAGE_SWAPPED (1 << 4)
#define PAGE_LARGE (1 << 6)
#define SCAN_CHECK_WATCHED (1 << 1)

/* Bits of the entries that reading /proc/self/pagemap gives. */
#define ENTRY_PROTECTED (UINT64_C(1) << 57)
#define ENTRY_SWAPPED (UINT64_C(1) << 62)
#define ENTRY_PRESENT (UINT64_C(1) << 63)

/* What the smallest table of pages is for: with 4 KB pages so much, with larger
 * ones more. */
#define BLOCK ((uintptr_t)1 << 21)

/* ---- What is not seen ---------------------------------------------------- */

/* Drivers of devices pin pages and write to them; what they pin for a graphics
 * card counts nowhere. Whoever uses one has its library loaded. */
static const char *const libraries[] = {
    "/libcuda.so",    "/libnvidia-",      "/libhsa-runtime64.so",
    "/libhsakmt.so",  "/libze_loader.so", "/libOpenCL.so",
    "/libibverbs.so",
};

typedef struct {
    unsigned long long loaded; /* how many were loaded until now */
    unsigned long long known;  /* and at the last look */
    bool found;
} Search;

static int
look_at_library(struct dl_phdr_info *info, size_t size, void *arg)
{
    Search *search = arg;
    if (size >=
        offsetof(struct dl_phdr_info, dlpi_adds) + sizeof(info->dlpi_adds)) {
        search->loaded = info->dlpi_adds;
        if (search->loaded == search->known) {
            return 1;
        }
    }
    const char *name = info->dlpi_name != NULL ? info->dlpi_name : "";
    for (size_t i = 0; i < sizeof(libraries) / sizeof(*libraries); i++) {
        search->found |= strstr(name, libraries[i]) != NULL;
    }
    return search->found;
}

/* Once loaded, a library counts for good. */
static bool
has_driver(void)
{
    static atomic_ullong known;
    static atomic_bool found;
    if (atomic_load(&found)) {
        return true;
    }
    Search search = {0, atomic_load(&known), false};
    dl_iterate_phdr(look_at_library, &search);
    if (search.found) {
        atomic_store(&found, true);
    }
    atomic_store(&known, search.loaded);
    return search.found;
}

/* Pages that the kernel or a device may write to by their address in memory:
 * registered buffers of io_uring, of RDMA. True where it isn't told. */
static bool
has_pinned(void)
{
    char text[TEXTFILE_SIZE];
    return !textfile_read("/proc/self/status", text) ||
           textfile_number(text, "VmPin:") != 0;
}

bool
writes_may_be_unseen(void)
{
    return has_driver() || has_pinned();
}

/* ---- Watching ------------------------------------------------------------ */

bool
writes_pages(const void *data, size_t length, uintptr_t *low, uintptr_t *high)
{
    const uintptr_t page = page_size();
    uintptr_t start = (uintptr_t)data;
    *low = (start + page - 1) / page * page;
    *high = (start + length) / page * page;
    return *low < *high;
}

static bool
is_open(const WriteWatch *watch)
{
    return watch->fd >= 0 && watch->pid == (long)getpid();
}

void
writes_close(WriteWatch *watch)
{
    if (watch->fd >= 0) {
        close(watch->fd);
    }
    if (watch->pagemap >= 0) {
        close(watch->pagemap);
    }
    bool refused = watch->refused;
    *watch = (WriteWatch)WRITEWATCH_INIT;
    watch->refused = refused;
}

/* 0, or -1 with errno. */
static int
open_watch(WriteWatch *watch)
{
#ifdef SYS_userfaultfd
    struct uffd_api api = {API_VERSION, API_WP_ASYNC | API_WP_UNPOPULATED, 0};
    if (!seccomp_allows(SECCOMP_USERFAULTFD)) {
        errno = EPERM;
        return -1;
    }
    watch->fd =
        (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | USER_MODE_ONLY);
    if (watch->fd < 0) {
        return -1;
    }
    watch->pid = (long)getpid();
    watch->pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
    if (watch->pagemap < 0) {
        return -1;
    }
    if (ioctl(watch->fd, API_IOCTL, &api) < 0) {
        errno = errno == EINVAL ? ENOSYS : errno;
        return -1;
    }
    return 0;
#else
    (void)watch;
    errno = ENOSYS;
    return -1;
#endif
}

/* Opens what is needed, once a process: 0, or -1 with errno. */
static int
get_ready(WriteWatch *watch)
{
    if (is_open(watch)) {
        return 0;
    }
    writes_close(watch);
    if (watch->refused) {
        errno = ENOSYS;
        return -1;
    }
    if (open_watch(watch) == 0) {
        return 0;
    }
    int error = errno;
    /* For want of descriptors or memory only now. */
    watch->refused =
        error != EMFILE && error != ENFILE && error != ENOMEM && error != EINTR;
    writes_close(watch);
    errno = error;
    return -1;
}

/* 1: no page of [low, high) that is there was written, 0: some was; -1 with
 * errno: EPERM when some memory is not watched. The kernel has a shorter way
 * for exactly these words. */
static int
scan_unwritten(int pagemap, uintptr_t low, uintptr_t high)
{
    struct scan_region region;
    struct scan_arg arg = {
        .size = sizeof(arg),
        .flags = SCAN_CHECK_WATCHED,
        .start = low,
        .end = high,
        .vec = (uintptr_t)&region,
        .vec_len = 1,
        .category_mask = PAGE_WRITTEN,
        .return_mask = PAGE_WRITTEN,
    };
    int found = ioctl(pagemap, SCAN_IOCTL, &arg);
    return found < 0 ? -1 : found == 0;
}

/* In each block of [low, high) some page is there, swapped out, or protected in
 * its absence. Where that is so for one, the others have entries too, which the
 * scan has seen. */
static bool
has_blocks(int pagemap, uintptr_t low, uintptr_t high)
{
    const uintptr_t page = page_size();
    for (uintptr_t at = low; at < high; at = (at / BLOCK + 1) * BLOCK) {
        uint64_t entry;
        off_t offset = (off_t)(at / page * sizeof(entry));
        if (pread(pagemap, &entry, sizeof(entry), offset) != sizeof(entry) ||
            !(entry & (ENTRY_PRESENT | ENTRY_SWAPPED | ENTRY_PROTECTED))) {
            return false;
        }
    }
    return true;
}

/* Each page of [low, high) has all of `all` and some of `any` (0: that is not
 * asked); `not` is which of them it must not have instead. */
static bool
are_all(int pagemap, uintptr_t low, uintptr_t high, uint64_t all, uint64_t not,
        uint64_t any)
{
    struct scan_region region = {0, 0, 0};
    struct scan_arg arg = {
        .size = sizeof(arg),
        .start = low,
        .end = high,
        .vec = (uintptr_t)&region,
        .vec_len = 1,
        .category_inverted = not,
        .category_mask = all,
        .category_anyof_mask = any,
        /* Nothing by which they differ, so that they make one region. */
        .return_mask = PAGE_WATCHED,
    };
    return ioctl(pagemap, SCAN_IOCTL, &arg) == 1 && region.start == low &&
           region.end == high;
}

/* All of [low, high) is watched, and none of it a file's or shared. */
static bool
is_watched(int pagemap, uintptr_t low, uintptr_t high)
{
    return are_all(pagemap, low, high, PAGE_WATCHED | PAGE_OF_FILE,
                   PAGE_OF_FILE, 0);
}

/* What scan_unwritten and has_blocks tell at once, which is less work for large
 * pages: if the first is one, the others are, in all likelihood. */
static bool
is_unwritten_and_large(int pagemap, uintptr_t low, uintptr_t high)
{
    uintptr_t first = (low + BLOCK - 1) / BLOCK * BLOCK;
    return first < high && high - first >= BLOCK &&
           are_all(pagemap, first, first + BLOCK, PAGE_WATCHED | PAGE_LARGE, 0,
                   0) &&
           are_all(pagemap, low, high, PAGE_WATCHED | PAGE_WRITTEN,
                   PAGE_WRITTEN, PAGE_PRESENT | PAGE_SWAPPED);
}

static int
unregister(const WriteWatch *watch, uintptr_t low, uintptr_t high)
{
    struct uffd_range range = {low, high - low};
    return ioctl(watch->fd, UNREGISTER_IOCTL, &range);
}

int
writes_arm(WriteWatch *watch, uintptr_t low, uintptr_t high)
{
    if (get_ready(watch) < 0) {
        return -1;
    }
    bool again = is_watched(watch->pagemap, low, high);
    if (!again && watch->armed >= WRITES_RANGES) {
        errno = ENOSPC;
        return -1;
    }
    struct uffd_register reg = {{low, high - low}, REGISTER_WP, 0};
    struct uffd_protect protect = {{low, high - low}, PROTECT_WP};
    if (ioctl(watch->fd, REGISTER_IOCTL, &reg) < 0) {
        return -1;
    }
    int error = 0;
    while (ioctl(watch->fd, PROTECT_IOCTL, &protect) < 0) {
        /* Maps are being changed by another thread. */
        if (errno != EAGAIN) {
            error = errno;
            break;
        }
    }
    if (error == 0 && !is_watched(watch->pagemap, low, high)) {
        /* Writes to a file, or by others who share it, would not be seen. */
        error = EINVAL;
    }
    if (error != 0) {
        unregister(watch, low, high);
        watch->armed -= again;
        errno = error;
        return -1;
    }
    watch->armed += !again;
    return 0;
}

Writes
writes_since(WriteWatch *watch, uintptr_t low, uintptr_t high)
{
    if (!is_open(watch) || writes_may_be_unseen()) {
        return WRITES_UNKNOWN;
    }
    if (is_unwritten_and_large(watch->pagemap, low, high)) {
        return WRITES_NONE;
    }
    switch (scan_unwritten(watch->pagemap, low, high)) {
    case 1:
        return has_blocks(watch->pagemap, low, high) ? WRITES_NONE
                                                     : WRITES_UNKNOWN;
    case 0:
        return WRITES_SOME;
    default:
        return WRITES_UNKNOWN;
    }
}

void
writes_disarm(WriteWatch *watch, uintptr_t low, uintptr_t high)
{
    if (is_open(watch)) {
        unregister(watch, low, high);
        watch->armed -= watch->armed > 0;
    }
}
