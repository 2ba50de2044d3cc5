"""``dask.array.from_array`` without the copy that it takes of every array.

dask copies an array so that later changes of it don't show. Of a read-only map that
copy protects from nobody in this process, and takes the memory of the whole file.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from .._core import describe, is_mapped

_stock: list[tuple[Any, Callable[..., Any]]] = []


class _Uncopied(np.ndarray[Any, np.dtype[Any]]):
    """A view that takes a look at what it is a view of for a copy of it."""

    _whole: Any = None

    def copy(self, order: Any = "C") -> Any:
        return self._whole


def _may_stay(array: Any) -> bool:
    if type(array) not in (np.ndarray, np.memmap) or not is_mapped(array):
        return False
    told = describe(array)
    return (
        not array.flags.writeable
        and not told["reason"]
        and not told.get("map_writable", True)
    )


def _make_from_array(stock: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(stock)
    def from_array(x: Any, *args: Any, **kwargs: Any) -> Any:
        if _may_stay(x):
            view = x.view(_Uncopied)
            view._whole = x
            x = view
        return stock(x, *args, **kwargs)

    return from_array


def put_in() -> None:
    """Replace the function in the modules that have it, if dask.array is there."""
    if _stock:
        return
    try:
        import dask.array
        import dask.array.core
    except ImportError:
        return
    made: dict[Any, Any] = {}
    for module in (dask.array.core, dask.array):
        stock = module.from_array
        _stock.append((module, stock))
        if stock not in made:
            made[stock] = _make_from_array(stock)
        module.from_array = made[stock]


def take_out() -> None:
    """Give back dask's own function."""
    while _stock:
        module, stock = _stock.pop()
        module.from_array = stock
