"""The layouts that ``demo`` and ``check`` send, and what is compared on arrival.

Nothing in this file writes through an array: it is used on files of the user.
"""

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

Array = NDArray[Any]

# A block is copied before it is hashed: the memory that hashing takes.
BLOCK_NBYTES = 4 << 20
# A large array is sampled in so many blocks along an axis, in fewer where they
# would be smaller than a page, which is what a disk is read by.
SAMPLES = 64
PAGE_NBYTES = 4096


class Traits(NamedTuple):
    """What must arrive beside the bytes, each entry named as in a report."""

    type: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    flags: str

    @classmethod
    def of(cls, array: Array) -> "Traits":
        """Return the traits of an array, flags as ``CFWA`` with ``-`` for off."""
        flags = array.flags
        letters = {
            "C": flags.c_contiguous,
            "F": flags.f_contiguous,
            "W": flags.writeable,
            "A": flags.aligned,
        }
        text = "".join(letter if on else "-" for letter, on in letters.items())
        return cls(type(array).__name__, array.dtype, array.shape, array.strides, text)

    def differing(self, other: "Traits") -> list[str]:
        """Return the names of the traits in which `other` is not the same."""
        pairs = zip(self._fields, self, other, strict=True)
        return [name for name, mine, theirs in pairs if mine != theirs]


def views_of(m: Array) -> Iterator[tuple[str, Array]]:
    """Yield (expression, view) for every layout of the table that `m` can have.

    Parameters
    ----------
    m : ndarray
        Contiguous, in C or Fortran order; any number of dimensions, any size.
    """
    yield "m", m
    yield "np.asarray(m)", np.asarray(m)
    yield "m[..., None]", m[..., None]
    yield "np.broadcast_to(m, (2, *m.shape))", np.broadcast_to(m, (2, *m.shape))
    if m.ndim > 0:
        yield from _sliced(m)
    if m.ndim > 1:
        yield from _permuted(m)
    if m.size > 0:
        yield from _reshaped(m)
    yield from _retyped(m)


def _sliced(m: Array) -> Iterator[tuple[str, Array]]:
    length = len(m)
    low, high = length // 4, length - length // 4
    yield "m[::-1]", m[::-1]
    yield "m[1::3]", m[1::3]
    yield "m[::-2]", m[::-2]
    yield f"m[{low}:{high}]", m[low:high]
    yield "m[:0]", m[:0]
    if length >= 3:
        yield "sliding_window_view(m, 3, axis=0)", sliding_window_view(m, 3, axis=0)


def _permuted(m: Array) -> Iterator[tuple[str, Array]]:
    length = len(m)
    low, high = length // 4, length - length // 4
    yield "m.T", m.T
    yield f"m[{low}:{high}].T", m[low:high].T
    yield "m[..., ::-1]", m[..., ::-1]
    yield "m[::-2, ::2]", m[::-2, ::2]
    yield "m.diagonal()", m.diagonal()
    if m.ndim > 2:
        yield "np.moveaxis(m, 0, -1)", np.moveaxis(m, 0, -1)
        yield "m.swapaxes(0, 1)", m.swapaxes(0, 1)


def _reshaped(m: Array) -> Iterator[tuple[str, Array]]:
    """Yield the items as they lie in the file, in a row and in other shapes."""
    if m.flags.c_contiguous:
        flat = m.reshape(-1)
        yield "flat = m.reshape(-1)", flat
    else:
        flat = m.reshape(-1, order="F")
        yield 'flat = m.reshape(-1, order="F")', flat
    yield "flat[-1:].reshape(())", flat[-1:].reshape(())
    for rows in (5, 3, 2):
        if flat.size % rows == 0:
            yield f"flat.reshape({rows}, -1)", flat.reshape(rows, -1)
            in_columns = flat.reshape((rows, -1), order="F")
            yield f'flat.reshape(({rows}, -1), order="F")', in_columns
            break


def _retyped(m: Array) -> Iterator[tuple[str, Array]]:
    """Yield fields, parts and other readings of the same bytes."""
    swapped = m.dtype.newbyteorder()
    if swapped != m.dtype:
        yield "m.view(m.dtype.newbyteorder())", m.view(swapped)
    for name in (m.dtype.names or ())[:4]:
        yield f"m[{name!r}]", m[name]
    if m.dtype.kind == "c":
        yield "m.real", m.real
        yield "m.imag", m.imag


def reading_order(array: Array) -> tuple[int, ...]:
    """Return the axes of `array`, the one with the longest steps first.

    Blocks cut along the first axes are then runs of the file, and not one item
    of every page.
    """
    return tuple(sorted(range(array.ndim), key=lambda axis: -abs(array.strides[axis])))


def digest(array: Array, axes: Sequence[int], limit: int) -> bytes:
    """Hash the items of `array`, or an even sample of about `limit` bytes.

    Parameters
    ----------
    array : ndarray
        No objects in it.
    axes : sequence of int
        The order in which the axes are cut into blocks. Sender and worker must
        use the same, whatever strides the array has in the worker.
    limit : int
        An array of more bytes than this is sampled.

    Returns
    -------
    bytes
    """
    total = hashlib.blake2b(digest_size=16)
    # Void items are copied with their padding, records without it.
    if array.dtype.itemsize > 0:
        items = array.view(np.dtype((np.void, array.dtype.itemsize)))
        for block in _blocks(items, axes, limit):
            total.update(block.tobytes())
    return total.digest()


def _blocks(items: Array, axes: Sequence[int], limit: int) -> Iterator[Array]:
    """Yield small views that together are `items`, or an even sample of it."""
    if items.nbytes <= min(limit, BLOCK_NBYTES) or items.size <= 1:
        yield items
        return
    axis = next(axis for axis in axes if items.shape[axis] > 1)
    length = items.shape[axis]
    row_nbytes = items.nbytes // length
    starts: Sequence[int]
    if items.nbytes <= limit:
        step = max(1, BLOCK_NBYTES // row_nbytes)
        starts = range(0, length, step)
        share = step * row_nbytes
    else:
        # Two at least: the first and the last rows are always among them.
        count = max(2, min(SAMPLES, length, limit // PAGE_NBYTES))
        share = limit // count
        step = max(1, share // row_nbytes)
        starts = [i * (length - step) // (count - 1) for i in range(count)]
    before = (slice(None),) * axis
    for start in starts:
        yield from _blocks(items[(*before, slice(start, start + step))], axes, share)
