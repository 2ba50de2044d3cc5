"""The dispatch tables: which reducer a pickler calls for which exact type."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import numpy as np

from . import _subclasses, _verify
from ._core import Reducer

Table = dict[type, Callable[[Any], Any]]
Verify = Literal["layout", "data"]


class Options(NamedTuple):
    """What ``install`` was asked for; travels with every batch of tasks."""

    verify: Verify | None = None
    strict: bool = False
    write_through: bool = False
    memory: bool = True


def make_options(
    verify: Verify | None,
    strict: bool,
    write_through: bool = False,
    memory: bool = True,
) -> Options:
    """Check the arguments of ``install``."""
    if verify not in (None, "layout", "data"):
        raise ValueError(f"verify must be None, 'layout' or 'data', not {verify!r}")
    return Options(verify, bool(strict), bool(write_through), bool(memory))


def make_table(
    options: Options,
    *,
    stock: Callable[[Any], Any] | None = None,
    max_nbytes: int | None = None,
    backward: bool = False,
    counted: bool = True,
) -> Table:
    """Reducers by exact type, for a pickler's ``dispatch_table``.

    Parameters
    ----------
    options : Options
    stock : callable, optional
        Reducer for arrays in memory of more than `max_nbytes` bytes.
    max_nbytes : int, optional
        None: no array is too large to be pickled.
    backward : bool
        The table is for results, which may be read after this process ended.
    counted : bool
        Arrays are added to the counters of this process.
    """
    reduce = Reducer(
        stock, max_nbytes, backward, options.strict, counted, options.write_through
    ).reduce
    if options.verify is not None:
        reduce = _verify.Verified(reduce, options.verify)
    table: Table = {np.ndarray: reduce, np.memmap: reduce}
    table.update(_subclasses.table())
    return table
