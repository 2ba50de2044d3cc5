"""Subclasses of ndarray: the memory goes by reference, the rest as Python data.

A subclass is sent as the plain array that shows its memory, which the same
pickler then reduces by its own entry, and what the class keeps beside it.
"""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np

from ._core import is_mapped

Array = np.ndarray[Any, np.dtype[Any]]
T = TypeVar("T", bound=type[Array])

_MEMMAP_STATE = ("_mmap", "filename", "offset", "mode")

# What FITS_rec.__reduce__ pickles besides the records (astropy 5 to 8).
_FITS_STATE = (
    "_converted",
    "_heapoffset",
    "_heapsize",
    "_tbsize",
    "_nfields",
    "_gap",
    "_uint",
    "parnames",
)

# NumPy 2 loads numpy.rec when it is first asked for. cloudpickle sends a class of
# a module that isn't loaded by value, and such a copy is in no table.
np.rec  # noqa: B018

_registered: dict[type, Callable[[Any], Any]] = {}


def reduce_subclass(array: Array) -> Any:
    """Reduce an instance of a registered class with its ``__dict__``."""
    plain = array.view(np.ndarray)
    if not is_mapped(plain):
        return array.__reduce_ex__(5)
    state = getattr(array, "__dict__", None)
    if isinstance(array, np.memmap):
        # Its own attributes come with an np.memmap, the mapping among them.
        plain = array.view(np.memmap)
        state = {k: v for k, v in (state or {}).items() if k not in _MEMMAP_STATE}
    return rebuild_subclass, (type(array), plain, array.dtype, state)


def rebuild_subclass(
    cls: type[Array], plain: Array, dtype: np.dtype[Any], state: dict[str, Any] | None
) -> Array:
    """Undo `reduce_subclass`."""
    array = plain.view(cls)
    if array.dtype != dtype or array.dtype.type is not dtype.type:
        # recarray turns a void type into a record type in __array_finalize__,
        # also where the sender had turned it back.
        array.dtype = dtype  # type: ignore[misc]
    if state:
        array.__dict__.update(state)
    return array


def reduce_masked(array: np.ma.MaskedArray[Any, Any]) -> Any:
    """Reduce a masked array: data and mask each go as what they are."""
    mask = None if array.mask is np.ma.nomask else np.ma.getmaskarray(array)
    data = array.data
    if not is_mapped(data.view(np.ndarray)) and (mask is None or not is_mapped(mask)):
        return array.__reduce_ex__(5)
    return rebuild_masked, (
        data,
        mask,
        array._fill_value,  # type: ignore[attr-defined]
        array.hardmask,
    )


def rebuild_masked(
    data: Array, mask: Array | None, fill_value: Any, hard_mask: bool
) -> np.ma.MaskedArray[Any, Any]:
    """Undo `reduce_masked`."""
    array = np.ma.MaskedArray(
        data,
        mask=np.ma.nomask if mask is None else mask,
        copy=False,
        hard_mask=hard_mask,
    )
    # The property would make a copy of another type out of None.
    array._fill_value = fill_value  # type: ignore[attr-defined]
    return array


def reduce_fits(array: Any) -> Any:
    """Reduce an astropy ``FITS_rec``: its column state is what astropy pickles."""
    plain = array.view(np.ndarray)
    if not is_mapped(plain):
        return array.__reduce_ex__(5)
    state = {name: getattr(array, name) for name in _FITS_STATE if hasattr(array, name)}
    # A deep copy, as columns may refer to an open file; but not of the columns'
    # arrays, which show the same memory.
    columns = array._coldefs
    keep = {id(c.array): c.array for c in columns if c.array is not None}
    keep |= {id(values): values for values in columns._arrays}
    state["_coldefs"] = columns.__deepcopy__(keep)
    return rebuild_fits, (type(array), plain, state)


def rebuild_fits(cls: type[Any], plain: Array, state: dict[str, Any]) -> Any:
    """Undo `reduce_fits`, as ``FITS_rec.__setstate__`` does."""
    array = plain.view(cls)
    array._col_weakrefs = weakref.WeakSet()
    for name, value in state.items():
        setattr(array, name, value)
    return array


def reduce_block(block: Any) -> Any:
    """Reduce a block of a pandas DataFrame.

    Its ``__reduce_ex__(5)`` copies values that are not contiguous.
    """
    if isinstance(block.values, np.ndarray) and is_mapped(block.values):
        return block.__reduce__()
    return block.__reduce_ex__(5)


def register(cls: T) -> T:
    """Let arrays of a subclass of ndarray go by reference.

    The memory of an instance is sent like that of any array; what is in its
    ``__dict__`` is pickled along. Instances in ordinary memory go on being
    pickled as the class itself says. Usable as a class decorator.

    Parameters
    ----------
    cls : type
        A subclass of `numpy.ndarray`, importable where the array arrives. Only
        arrays of exactly this class are meant.

    Returns
    -------
    type
        `cls`.

    Raises
    ------
    TypeError
        If `cls` is no subclass of ndarray.
    """
    if not (isinstance(cls, type) and issubclass(cls, np.ndarray)):
        raise TypeError(f"expected a subclass of numpy.ndarray, not {cls!r}")
    if cls not in (np.ndarray, np.memmap, np.ma.MaskedArray):
        _registered[cls] = reduce_subclass
    return cls


def table() -> dict[type, Callable[[Any], Any]]:
    """Reducers of all subclasses known now, by exact type."""
    known: dict[type, Callable[[Any], Any]] = {
        np.recarray: reduce_subclass,
        np.matrix: reduce_subclass,
        np.ma.MaskedArray: reduce_masked,
        **_registered,
    }
    # Neither is imported for this: whoever has such an object has imported it.
    fitsrec = sys.modules.get("astropy.io.fits.fitsrec")
    if fitsrec is not None:
        known[fitsrec.FITS_rec] = reduce_fits
    blocks = sys.modules.get("pandas.core.internals.blocks")
    for name in ("NumpyBlock", "NumericBlock"):  # the latter before pandas 3
        if hasattr(blocks, name):
            known[getattr(blocks, name)] = reduce_block
    return known
