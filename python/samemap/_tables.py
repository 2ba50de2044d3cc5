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


def make_engine_table(
    *,
    protocol: int,
    lasting: bool = True,
    backward: bool = False,
    write_through: bool = False,
    counted: bool = True,
) -> Table:
    """Reducers by exact type, where stock sends every array as a copy.

    Arrays on mapped memory go by reference, and each is its reader's own: what lies on
    a writable map, an `np.memmap` too, arrives on private pages, writeable as it was
    sent. Memory made by `empty`, `zeros` or `share` stays shared. All else goes by
    value, in bytes that need no samemap where they are read.

    Parameters
    ----------
    protocol : int
        That of the pickler.
    lasting : bool
        The message may be read when its arrays are gone: what no path leads to goes by
        value. Without it, the sender keeps what `Outgoing` gives it to hold. Memory
        made to be shared has no path: it is to be kept in any case.
    backward : bool
        The table is for results: an `np.memmap` goes by reference, unless this
        process may write to its file; any other map is copied.
    write_through : bool
        Writable maps are shared, as under ``install(write_through=True)``.
    counted : bool
        Arrays are added to the counters of this process.
    """
    reduce = Reducer(
        backward=backward,
        counted=counted,
        write_through=write_through,
        isolated=True,
        lasting=lasting,
        protocol=protocol,
    ).reduce
    return {np.ndarray: reduce, np.memmap: reduce, **_subclasses.table()}


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
