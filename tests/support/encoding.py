"""A layout as it stands in a message: the same grammar as src/wire/layout.h."""

import numpy as np

WRITEABLE, HAS_MMAP, LOCKED, UNALIGNED, MEMMAP = 1, 2, 4, 8, 16
PRIVATE, OWN, ALONE, BARE, MAPPED = 32, 64, 128, 256, 512
ALL_FLAGS = 1023
NO_TYPENUM = 255


def varint(number):
    """Encode an unsigned number as LEB128."""
    out = bytearray()
    while number >= 0x80:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*out, number])


def zigzag(number):
    """Encode a signed number: 0, -1, 1, -2, ... become 0, 1, 2, 3, ..."""
    return varint(2 * number if number >= 0 else -2 * number - 1)


def typenum(dtype):
    """Return what stands for a dtype: its number, if that says all."""
    plain = dtype.isnative and dtype.kind not in "SUVMm"
    return dtype.num if plain else NO_TYPENUM


def encode(dtype, shape, strides=None, offset=0, flags=WRITEABLE):
    """Encode a layout as bytes.

    Parameters
    ----------
    dtype : dtype, or int for a type number
    shape : tuple of int
    strides : tuple of int, optional
        In bytes; None: in C order.
    offset : int
        Bytes from the memory's start to element [0, 0, ...].
    flags : int
    """
    number = dtype if isinstance(dtype, int) else typenum(np.dtype(dtype))
    if strides is None:
        strides = np.empty(shape, dtype).strides
    numbers = [varint(flags), varint(offset), *map(varint, shape)]
    return bytes([number, len(shape)]) + b"".join([*numbers, *map(zigzag, strides)])
