/* The view's half of the message: element type, offset, shape and strides.
 *
 *   typenum  1 byte: LAYOUT_NO_TYPENUM, or NumPy's number of the element type
 *   ndim     1 byte
 *   flags    LEB128: LAYOUT_WRITEABLE and the others
 *   offset   LEB128: bytes, of element [0, 0, ...] from the memory's start
 *   shape    LEB128, ndim times
 *   strides  zigzag LEB128, ndim times: bytes
 *
 * A 2-D strided view takes about 12 bytes; a reader must get exactly the bytes
 * that this promises.
 */
#ifndef SAMEMAP_LAYOUT_H
#define SAMEMAP_LAYOUT_H

#include "core.h"

/* NumPy 2 allows 64 axes, NumPy 1 allows 32 and refuses more by itself. */
#define LAYOUT_MAX_DIMS 64

/* The element type is an object of its own beside the layout. */
#define LAYOUT_NO_TYPENUM 0xFF

enum {
    LAYOUT_WRITEABLE = 1 << 0,
    /* np.memmap: its `_mmap` attribute is the mapping, not None. */
    LAYOUT_HAS_MMAP = 1 << 1,
    /* The memory is seen through a read-only buffer: `setflags(write=True)`
     * must fail even where the mapping itself is writable. */
    LAYOUT_LOCKED = 1 << 2,
    /* The ALIGNED flag was taken away by hand. */
    LAYOUT_UNALIGNED = 1 << 3,
    /* The array is an np.memmap, not only a view of one. */
    LAYOUT_MEMMAP = 1 << 4,
    /* On pages that nobody but the reader, or one task of a batch, writes to.
     */
    LAYOUT_PRIVATE = 1 << 5,
    /* On a mapping made for this message, not on the one that the reader has.
     */
    LAYOUT_OWN = 1 << 6,
    /* With LAYOUT_PRIVATE: on memory that no other view has. */
    LAYOUT_ALONE = 1 << 7,
    /* An np.memmap without attributes, as a view by type makes it. */
    LAYOUT_BARE = 1 << 8,
    /* On a mapping also where a copy would be less work: its reader may send it
     * on, and as ordinary memory of that size it would go another way. */
    LAYOUT_MAPPED = 1 << 9,
    LAYOUT_ALL_FLAGS = (1 << 10) - 1,
};

typedef struct {
    unsigned flags;
    int typenum;     /* NumPy's number of a builtin type, or NO_TYPENUM */
    int ndim;        /* at most LAYOUT_MAX_DIMS */
    npy_intp offset; /* bytes, of element [0, 0, ...] from the memory's start */
    npy_intp shape[LAYOUT_MAX_DIMS];
    npy_intp strides[LAYOUT_MAX_DIMS]; /* bytes */
} Layout;

/* Bytes that the elements span around element [0, 0, ...]: *low <= 0 is the
 * first one, *high the one after the last; both 0 for an array of size 0.
 * Axes of length 1 don't count, whatever their stride.
 * 0, or -1 (no exception set) when the sums overflow or a length is negative.
 */
int layout_bounds(int ndim, const npy_intp *shape, const npy_intp *strides,
                  npy_intp itemsize, npy_intp *low, npy_intp *high);

/* Number of bytes in all elements, or -1 (no exception set) on overflow. */
npy_intp layout_nbytes(int ndim, const npy_intp *shape, npy_intp itemsize);

/* When the strides are those of a new array, the flags that NumPy makes it
 * with: 0 for C order, NPY_ARRAY_F_CONTIGUOUS for Fortran order; else -1. */
int layout_order(const Layout *layout, npy_intp itemsize);

/* Copies the bytes of all elements, in C order, from around element [0, 0, ...]
 * at `first` to `flat`, and back. */
void layout_gather(const Layout *layout, npy_intp itemsize, const char *first,
                   char *flat);
void layout_scatter(const Layout *layout, npy_intp itemsize, char *first,
                    const char *flat);

/* New reference to `layout` as bytes, or NULL. */
PyObject *layout_encode(const Layout *layout);

/* 0, or -1 with TypeError or ValueError when `py_layout` is no layout. */
int layout_decode(PyObject *py_layout, Layout *layout);

#endif
