/* Owns both directions of a view's layout, whose grammar is in the header, and
 * the arithmetic on its bounds.
 */
#include "wire/layout.h"

#include <string.h>

#define HEADER_SIZE 2
#define VARINT_MAX 10 /* bytes that 64 bits take, 7 at a time */
#define ENCODED_MAX (HEADER_SIZE + VARINT_MAX * (2 + 2 * LAYOUT_MAX_DIMS))

static unsigned char *
put_varint(unsigned char *out, uint64_t value)
{
    while (value >= 0x80) {
        *out++ = (unsigned char)(value | 0x80);
        value >>= 7;
    }
    *out++ = (unsigned char)value;
    return out;
}

/* The byte after the number, or NULL when it is cut off or over 64 bits. */
static const unsigned char *
get_varint(const unsigned char *in, const unsigned char *end, uint64_t *value)
{
    uint64_t result = 0;
    for (int shift = 0; in < end && shift < 64; shift += 7) {
        unsigned char byte = *in++;
        if (shift == 63 && byte > 1) {
            return NULL;
        }
        result |= (uint64_t)(byte & 0x7F) << shift;
        if (!(byte & 0x80)) {
            *value = result;
            return in;
        }
    }
    return NULL;
}

static uint64_t
zigzag(int64_t value)
{
    return ((uint64_t)value << 1) ^ (value < 0 ? UINT64_MAX : 0);
}

static int64_t
unzigzag(uint64_t value)
{
    return (int64_t)((value >> 1) ^ (~(value & 1) + 1));
}

/* As get_varint, for a number that must not be negative as npy_intp. */
static const unsigned char *
get_length(const unsigned char *in, const unsigned char *end, npy_intp *value)
{
    uint64_t wide;
    in = get_varint(in, end, &wide);
    if (in == NULL || wide > (uint64_t)NPY_MAX_INTP) {
        return NULL;
    }
    *value = (npy_intp)wide;
    return in;
}

static const unsigned char *
get_stride(const unsigned char *in, const unsigned char *end, npy_intp *value)
{
    uint64_t wide;
    in = get_varint(in, end, &wide);
    if (in == NULL) {
        return NULL;
    }
    int64_t stride = unzigzag(wide);
    if (stride < NPY_MIN_INTP || stride > NPY_MAX_INTP) {
        return NULL;
    }
    *value = (npy_intp)stride;
    return in;
}

int
layout_bounds(int ndim, const npy_intp *shape, const npy_intp *strides,
              npy_intp itemsize, npy_intp *low, npy_intp *high)
{
    npy_intp first = 0, last = itemsize;
    bool empty = false, overflow = false;
    *low = *high = 0;
    for (int i = 0; i < ndim; i++) {
        npy_intp length = shape[i], reach;
        if (length < 0) {
            return -1;
        }
        if (length <= 1) {
            empty |= length == 0;
            continue;
        }
        overflow |= __builtin_mul_overflow(length - 1, strides[i], &reach);
        if (reach < 0) {
            overflow |= __builtin_add_overflow(first, reach, &first);
        } else {
            overflow |= __builtin_add_overflow(last, reach, &last);
        }
    }
    /* No element is anywhere, whatever the strides of the other axes. */
    if (empty) {
        return 0;
    }
    if (overflow) {
        return -1;
    }
    *low = first;
    *high = last;
    return 0;
}

npy_intp
layout_nbytes(int ndim, const npy_intp *shape, npy_intp itemsize)
{
    npy_intp nbytes = itemsize;
    bool overflow = false;
    for (int i = 0; i < ndim; i++) {
        if (shape[i] == 0) {
            return 0;
        }
        overflow |= __builtin_mul_overflow(nbytes, shape[i], &nbytes);
    }
    return overflow ? -1 : nbytes;
}

/* The strides go on from `first` in steps of `step`, without gaps. */
static bool
is_dense(const Layout *layout, npy_intp itemsize, int first, int step)
{
    npy_intp stride = itemsize;
    for (int i = first; i >= 0 && i < layout->ndim; i += step) {
        if (layout->strides[i] != stride) {
            return false;
        }
        stride *= layout->shape[i];
    }
    return true;
}

int
layout_order(const Layout *layout, npy_intp itemsize)
{
    if (is_dense(layout, itemsize, layout->ndim - 1, -1)) {
        return 0;
    }
    return is_dense(layout, itemsize, 0, 1) ? NPY_ARRAY_F_CONTIGUOUS : -1;
}

/* `size` bytes at `strided` and `flat` become the same. */
static void
copy_run(char *strided, char *flat, size_t size, bool gather)
{
    if (gather) {
        memcpy(flat, strided, size);
    } else {
        memcpy(strided, flat, size);
    }
}

/* Returns the end of what was copied. `axis` and the pointers go down the
 * axes. */
static char *
copy_elements(const Layout *layout, npy_intp itemsize, int axis, char *strided,
              char *flat, bool gather)
{
    npy_intp run = itemsize;
    if (axis == layout->ndim - 1 && layout->strides[axis] == itemsize) {
        run *= layout->shape[axis];
    } else if (axis < layout->ndim) {
        for (npy_intp i = 0; i < layout->shape[axis]; i++) {
            flat = copy_elements(layout, itemsize, axis + 1,
                                 strided + i * layout->strides[axis], flat,
                                 gather);
        }
        return flat;
    }
    copy_run(strided, flat, (size_t)run, gather);
    return flat + run;
}

static void
copy(const Layout *layout, npy_intp itemsize, char *first, char *flat,
     bool gather)
{
    /* An axis of no length may stand behind others of any length. */
    if (layout_nbytes(layout->ndim, layout->shape, itemsize) > 0) {
        copy_elements(layout, itemsize, 0, first, flat, gather);
    }
}

void
layout_gather(const Layout *layout, npy_intp itemsize, const char *first,
              char *flat)
{
    copy(layout, itemsize, (char *)first, flat, true);
}

void
layout_scatter(const Layout *layout, npy_intp itemsize, char *first,
               const char *flat)
{
    copy(layout, itemsize, first, (char *)flat, false);
}

PyObject *
layout_encode(const Layout *layout)
{
    assert(layout->flags <= LAYOUT_ALL_FLAGS && layout->offset >= 0);
    assert(layout->ndim >= 0 && layout->ndim <= LAYOUT_MAX_DIMS);
    unsigned char buffer[ENCODED_MAX];
    unsigned char *out = buffer;
    *out++ = (unsigned char)layout->typenum;
    *out++ = (unsigned char)layout->ndim;
    out = put_varint(out, layout->flags);
    out = put_varint(out, (uint64_t)layout->offset);
    for (int i = 0; i < layout->ndim; i++) {
        out = put_varint(out, (uint64_t)layout->shape[i]);
    }
    for (int i = 0; i < layout->ndim; i++) {
        out = put_varint(out, zigzag(layout->strides[i]));
    }
    return PyBytes_FromStringAndSize((char *)buffer, out - buffer);
}

int
layout_decode(PyObject *py_layout, Layout *layout)
{
    char *start;
    Py_ssize_t size;
    if (!PyBytes_CheckExact(py_layout)) {
        PyErr_Format(PyExc_TypeError, "layout must be bytes, not %R",
                     (PyObject *)Py_TYPE(py_layout));
        return -1;
    }
    if (PyBytes_AsStringAndSize(py_layout, &start, &size) < 0) {
        return -1;
    }
    const unsigned char *in = (unsigned char *)start;
    const unsigned char *end = in + size;
    uint64_t flags;
    if (size < HEADER_SIZE + 1) {
        goto damaged;
    }
    layout->typenum = in[0];
    layout->ndim = in[1];
    in = get_varint(in + HEADER_SIZE, end, &flags);
    if (in == NULL || flags > LAYOUT_ALL_FLAGS ||
        layout->ndim > LAYOUT_MAX_DIMS) {
        goto damaged;
    }
    layout->flags = (unsigned)flags;
    in = get_length(in, end, &layout->offset);
    for (int i = 0; in != NULL && i < layout->ndim; i++) {
        in = get_length(in, end, &layout->shape[i]);
    }
    for (int i = 0; in != NULL && i < layout->ndim; i++) {
        in = get_stride(in, end, &layout->strides[i]);
    }
    if (in != end) {
        goto damaged;
    }
    return 0;

damaged:
    PyErr_Format(PyExc_ValueError, "damaged layout: %R", py_layout);
    return -1;
}
