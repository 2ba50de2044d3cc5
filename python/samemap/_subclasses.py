"""Subclasses of ndarray: the memory goes by reference, the rest as Python data.

A subclass is sent as the plain array that shows its memory, which the same
pickler then reduces by its own entry, and what the class keeps beside it. Classes
of other libraries are known once somebody else has imported their module.
"""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable, Container, Mapping
from types import MappingProxyType, ModuleType
from typing import Any, TypeVar

import numpy as np

from ._core import is_mapped

Array = np.ndarray[Any, np.dtype[Any]]
Reduce = Callable[[Any], Any]
Table = dict[type, Reduce]
T = TypeVar("T", bound=type[Array])

_MEMMAP_STATE = ("_mmap", "filename", "offset", "mode")

# What a FITS_rec keeps in its __dict__ and can't be pickled as it is.
_FITS_REMADE = ("_col_weakrefs", "_coldefs")

# NumPy 2 loads numpy.rec when it is first asked for. cloudpickle sends a class of
# a module that isn't loaded by value, and such a copy is in no table.
np.rec  # noqa: B018


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


def is_on_map(array: Any) -> bool:
    """Tell whether some of the memory of an array, or of its mask, is a mapping's."""
    mask = array.__dict__.get("_mask") if isinstance(array, np.ma.MaskedArray) else None
    return is_mapped(np.ndarray.view(array, np.ndarray)) or (
        isinstance(mask, np.ndarray) and is_mapped(mask)
    )


def reduce_fits(array: Any) -> Any:
    """Reduce an astropy ``FITS_rec`` with its columns and its ``__dict__``.

    The class itself pickles some attributes by name (astropy 5 to 8), all of them
    in the ``__dict__``, and drops the others.
    """
    state = {k: v for k, v in array.__dict__.items() if k not in _FITS_REMADE}
    plain = np.ndarray.view(array, np.ndarray)
    if not is_mapped(plain):
        rebuild, args, own_state = array.__reduce_ex__(5)
        names = own_state[-1]
        state = {k: v for k, v in state.items() if k not in names}
        return rebuild, args, (own_state, state), None, None, set_fits_copy
    # A deep copy, as columns may refer to an open file; but not of the columns'
    # arrays, which show the same memory.
    columns = array._coldefs
    keep = {id(c.array): c.array for c in columns if c.array is not None}
    keep |= {id(values): values for values in columns._arrays}
    state["_coldefs"] = columns.__deepcopy__(keep)
    return rebuild_fits, (type(array), plain), state, None, None, set_fits


def rebuild_fits(cls: type[Any], plain: Array) -> Any:
    """Begin to undo `reduce_fits`: the records, their columns still unknown."""
    return plain.view(cls)


def set_fits(array: Any, state: dict[str, Any]) -> None:
    """Undo the rest of `reduce_fits`. The state may refer to the array."""
    array._col_weakrefs = weakref.WeakSet()
    array.__dict__.update(state)


def set_fits_copy(array: Any, state: tuple[Any, dict[str, Any]]) -> None:
    """Undo `reduce_fits` of records in ordinary memory."""
    own_state, others = state
    array.__setstate__(own_state)
    array.__dict__.update(others)


def reduce_quantity(array: Any) -> Any:
    """Reduce an astropy ``Quantity`` or ``Column``: what the class pickles, and memory.

    The class pickles an empty array of the same attributes.
    """
    plain = np.ndarray.view(array, np.ndarray)
    if not is_mapped(plain):
        return array.__reduce_ex__(5)
    args = (type(array), plain, array.dtype, None)
    return rebuild_subclass, args, _emptied(array), None, None, set_attributes


def reduce_masked_column(array: Any) -> Any:
    """Reduce an astropy ``MaskedColumn``: data and mask each go as what they are."""
    plain = np.ndarray.view(array, np.ndarray)
    mask = None if array.mask is np.ma.nomask else np.ma.getmaskarray(array)
    if not is_mapped(plain) and (mask is None or not is_mapped(mask)):
        return array.__reduce_ex__(5)
    args = (type(array), plain, array.dtype, None)
    mask_state = (mask, array._fill_value, array.hardmask)
    state = (_emptied(array), mask_state)
    return rebuild_subclass, args, state, None, None, set_masked_column


def _emptied(array: Any) -> Any:
    """Make an array of the same class and attributes, without elements."""
    empty = np.ndarray.__new__(type(array), (0,), array.dtype)
    empty.__dict__.update(array.__dict__)
    if isinstance(empty, np.ma.MaskedArray):
        empty._mask = np.ma.nomask  # type: ignore[attr-defined]
    return empty


def set_attributes(array: Any, empty: Any) -> None:
    """Undo `_emptied`. What is in `empty` may refer to the array."""
    array.__dict__.update(empty.__dict__)


def set_masked_column(array: Any, state: tuple[Any, tuple[Any, Any, Any]]) -> None:
    """Undo `reduce_masked_column`."""
    empty, (mask, fill_value, hard_mask) = state
    set_attributes(array, empty)
    array._mask = np.ma.nomask if mask is None else mask
    # The property would make a copy of another type out of None.
    array._fill_value = fill_value
    array._hardmask = hard_mask


def reduce_block(block: Any) -> Any:
    """Reduce a block of a pandas DataFrame.

    Its ``__reduce_ex__(5)`` copies values that are not contiguous.
    """
    if isinstance(block.values, np.ndarray) and is_mapped(block.values):
        return block.__reduce__()
    return block.__reduce_ex__(5)


# Of which modules which classes are known, and how they are reduced.
_GUESTS: Mapping[str, Mapping[str, Reduce]] = {
    "astropy.io.fits.fitsrec": {"FITS_rec": reduce_fits},
    "astropy.units.quantity": {"Quantity": reduce_quantity},
    "astropy.table.column": {
        "Column": reduce_quantity,
        "MaskedColumn": reduce_masked_column,
    },
    "pandas.core.internals.blocks": {
        "NumpyBlock": reduce_block,
        "NumericBlock": reduce_block,  # before pandas 3
    },
}

# Grows only: by modules that appear in sys.modules and by `register`.
_known: Table = {
    np.recarray: reduce_subclass,
    np.matrix: reduce_subclass,
    np.ma.MaskedArray: reduce_masked,
}
_absent = frozenset(_GUESTS)
# Called when a class was registered: tables that exist don't have it.
listeners: list[Callable[[], None]] = []
_NOTHING: Mapping[type, Reduce] = MappingProxyType({})


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

    Examples
    --------
    >>> import numpy as np
    >>> import samemap
    >>> @samemap.register
    ... class Spectrum(np.ndarray):
    ...     unit = "mJy"
    >>> samemap.register(list)
    Traceback (most recent call last):
        ...
    TypeError: expected a subclass of numpy.ndarray, not <class 'list'>
    """
    if not (isinstance(cls, type) and issubclass(cls, np.ndarray)):
        raise TypeError(f"expected a subclass of numpy.ndarray, not {cls!r}")
    if cls not in (np.ndarray, np.memmap, np.ma.MaskedArray):
        _known[cls] = reduce_subclass
        for listener in listeners:
            listener()
    return cls


def _is_complete(module: ModuleType | None) -> bool:
    """Tell whether a module is there and has all its names (None: forbidden)."""
    spec = getattr(module, "__spec__", None)
    return module is not None and not getattr(spec, "_initializing", False)


def _look() -> None:
    """Add the classes of modules that were imported since the last look."""
    global _absent
    for name in _absent & sys.modules.keys():
        module = sys.modules.get(name)
        if _is_complete(module):
            for cls, reduce in _GUESTS[name].items():
                if hasattr(module, cls):
                    _known[getattr(module, cls)] = reduce
            # Last: another thread that finds nothing absent has them all.
            _absent -= {name}


def are_missing() -> bool:
    """Tell whether a module with such classes is being imported just now."""
    return not sys.modules.keys().isdisjoint(_absent)


def table() -> Table:
    """Reducers of all subclasses known now, by exact type.

    Nothing is imported for this: whoever has such an object has imported its class.
    """
    _look()
    return dict(_known)


def late(known: Container[type]) -> Mapping[type, Reduce]:
    """Reducers of the classes that became known after a table was made.

    Parameters
    ----------
    known : container of types
        The table. What it has, of ours or of the user's, isn't given again.

    Returns
    -------
    mapping
        By exact type; empty, and that within 0.5 µs, where nothing is missing.
    """
    if not sys.modules.keys().isdisjoint(_absent):
        _look()
    # A list, as other threads may add to the dict.
    for cls in [*_known]:
        if cls not in known:
            return {c: r for c, r in [*_known.items()] if c not in known}
    return _NOTHING


def overlay(stock: Table, ours: Table, user: Mapping[type, Reduce]) -> Table:
    """Lay our reducers over joblib's, and the user's over both.

    Parameters
    ----------
    stock : dict
        What joblib made. It is the user's own dict, if there was one, with two
        entries more: it isn't changed.
    ours : dict
    user : mapping
        ``forward_reducers`` or ``backward_reducers`` as they were given. Those of
        ndarray and memmap don't count, as in joblib.

    Returns
    -------
    dict
    """
    arrays = (np.ndarray, np.memmap)
    own = {cls: reduce for cls, reduce in user.items() if cls not in arrays}
    return {**stock, **ours, **own}
