"""Arrays in memory that was made to be shared: everybody's writes, seen by everybody.

They are plain arrays on an `mmap.mmap` of a file without a name, which the C half
knows for what it is.
"""

from __future__ import annotations

import math
import operator
import sys
from collections.abc import Sequence
from typing import Any, Literal, SupportsIndex

import numpy as np
import numpy.typing as npt

from . import _core

Array = np.ndarray[Any, np.dtype[Any]]
Shape = SupportsIndex | Sequence[SupportsIndex]


def empty(
    shape: Shape, dtype: npt.DTypeLike = float, order: Literal["C", "F"] = "C"
) -> Array:
    """Return a new array whose memory this process and all workers write to.

    It reaches workers by reference, in every pool of processes: what anyone writes to
    it, or to a view of it, everyone sees. The way to fill one array from many tasks.

    Parameters
    ----------
    shape : int or tuple of int
        Shape of the array, as in `numpy.empty`.
    dtype : data-type, optional
        Any type without Python objects.
    order : {"C", "F"}, optional
        Whether rows (C) or columns (Fortran) lie next to each other.

    Returns
    -------
    numpy.ndarray
        A plain array. Its bytes happen to be zero. Memory for them is taken at
        once, so that tasks can fill it at full speed; where they are more than an
        eighth of what is left, when they are first written. It is freed with the
        last array on it, in whatever process that is, and nothing is left when
        processes are killed.

    Raises
    ------
    TypeError
        If `dtype` holds Python objects: other processes couldn't follow them.
    MemoryError
        If the system hasn't so much memory left.
    OSError
        If it has no such memory.

    See Also
    --------
    zeros : The same, named for what is in it.
    share : A copy of an array in such memory.

    Notes
    -----
    Nothing orders the writes of different processes: tasks should write to
    different elements. As a task's result such an array is a copy, like any other.
    An array sent by plain pickle, not by samemap, is a copy as well.

    Examples
    --------
    >>> import samemap
    >>> from joblib import Parallel, delayed
    >>> def fill(output, i):
    ...     output[i] = i**2
    >>> output = samemap.empty(5, int)
    >>> _ = Parallel(n_jobs=2)(delayed(fill)(output, i) for i in range(5))
    >>> output
    array([ 0,  1,  4,  9, 16])
    """
    # What NumPy makes of it: "S" has one byte, an element may be an array itself.
    element = np.empty((), _without_objects(dtype))
    axes = _axes(shape) + element.shape
    if any(length < 0 for length in axes):
        raise ValueError("negative dimensions are not allowed")
    nbytes = math.prod(axes) * element.itemsize
    if nbytes > sys.maxsize:
        raise ValueError("array is too big: its bytes exceed all addresses")
    memory = _core.shared_memory(nbytes)
    return _on_memory(memory, axes, element.dtype, order)


def zeros(
    shape: Shape, dtype: npt.DTypeLike = float, order: Literal["C", "F"] = "C"
) -> Array:
    """Return a new array of zeros whose memory this process and all workers write to.

    Parameters
    ----------
    shape : int or tuple of int
        Shape of the array, as in `numpy.zeros`.
    dtype : data-type, optional
        Any type without Python objects.
    order : {"C", "F"}, optional
        Whether rows (C) or columns (Fortran) lie next to each other.

    Returns
    -------
    numpy.ndarray
        As `empty` does.

    See Also
    --------
    empty : What such an array is, and which errors there are.
    """
    return empty(shape, dtype, order)


def share(array: npt.ArrayLike) -> Array:
    """Return a copy of an array whose memory this process and all workers write to.

    Parameters
    ----------
    array : array_like
        What to copy. It stays as it is, and isn't shared.

    Returns
    -------
    numpy.ndarray
        As `empty` does, with the values and the data type of `array`, and with its
        axes in the same order in memory.

    See Also
    --------
    empty : What such an array is, and which errors there are.
    """
    source = np.asarray(array)
    _without_objects(source.dtype)
    # In memory, the axis with the longest steps comes first.
    outwards = sorted(range(source.ndim), key=lambda axis: -abs(source.strides[axis]))
    ordered = source.transpose(outwards)
    if ordered.flags.c_contiguous and ordered.nbytes:
        flat = ordered.reshape(-1).view(np.uint8)
        memory = _core.shared_memory(ordered.nbytes, flat.data)
        result = _on_memory(memory, ordered.shape, ordered.dtype, "C")
    else:
        result = empty(ordered.shape, ordered.dtype)
        result[...] = ordered
    return result.transpose(np.argsort(outwards)) if source.ndim > 1 else result


def _without_objects(dtype: npt.DTypeLike) -> np.dtype[Any]:
    dtype = np.dtype(dtype)
    if dtype.hasobject:
        raise TypeError(
            f"an array of {dtype!r} can't be shared: other processes can't follow its "
            "references to Python objects"
        )
    return dtype


def _axes(shape: Shape) -> tuple[int, ...]:
    """Return a shape as a tuple, as NumPy's functions understand it."""
    try:
        return (operator.index(shape),)  # type: ignore[arg-type]
    except TypeError:
        return tuple(operator.index(length) for length in shape)  # type: ignore[union-attr]


def _on_memory(
    memory: Any, shape: tuple[int, ...], dtype: np.dtype[Any], order: Literal["C", "F"]
) -> Array:
    # Between array and map, frombuffer puts a memoryview: that forbids to close the
    # map under the array, which `np.ndarray` alone doesn't.
    return np.ndarray(shape, dtype, np.frombuffer(memory, np.uint8), order=order)
