"""Putting samemap's reducers into joblib, and taking them out again.

Two names of joblib are replaced, ``get_memmapping_reducers`` in ``joblib.executor``
(loky) and in ``joblib.pool`` (multiprocessing), and a reusable executor made with
other reducers is marked as not to be reused. Everything else stays joblib's.
"""

from __future__ import annotations

import functools
import inspect
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import joblib
import joblib.executor
import joblib.parallel
import joblib.pool
import numpy as np
from joblib.externals.loky import process_executor

from ._batches import BatchReducer, Keeper, reduce_failure
from ._errors import UnsupportedJoblibError
from ._tables import Options, Table, Verify, make_options, make_table

SUPPORTED = "1.3 to 1.6"

_NAME = "get_memmapping_reducers"
_MODULES = (joblib.executor, joblib.pool)
_ARGUMENTS = {"forward_reducers", "backward_reducers", "max_nbytes"}

_lock = threading.RLock()
_options: Options | None = None
_stock: dict[Any, Callable[..., tuple[Table, Table]]] = {}


def _unsupported(found: str) -> UnsupportedJoblibError:
    return UnsupportedJoblibError(
        f"samemap works with joblib {SUPPORTED}; in joblib {joblib.__version__} {found}"
    )


def _check_joblib() -> None:
    """Look at all that is relied on, before anything is touched."""
    for module in _MODULES:
        reducers = getattr(module, _NAME, None)
        if not callable(reducers):
            raise _unsupported(f"{module.__name__} has no {_NAME}")
        if not set(inspect.signature(reducers).parameters) >= _ARGUMENTS:
            raise _unsupported(f"{module.__name__}.{_NAME} takes other arguments")
    if not hasattr(joblib.executor, "_executor_args"):
        raise _unsupported("joblib.executor has no _executor_args")
    if not hasattr(process_executor, "_ExceptionWithTraceback"):
        raise _unsupported("exceptions of tasks are sent otherwise")
    try:
        batch = joblib.parallel.BatchedCalls([], (None, None))
        rebuild, args = batch.__reduce__()
        made = rebuild(*args)
    except Exception as error:
        raise _unsupported(f"BatchedCalls is made otherwise ({error})") from error
    if not callable(made):
        raise _unsupported("BatchedCalls can't be called")


def _make_reducers(
    stock: Callable[..., tuple[Table, Table]], keeps_batches: bool
) -> Callable[..., Any]:
    """Wrap `get_memmapping_reducers`: its tables with our entries on top."""
    signature = inspect.signature(stock)

    @functools.wraps(stock)
    def get_memmapping_reducers(*args: Any, **kwargs: Any) -> tuple[Table, Table]:
        forward, backward = stock(*args, **kwargs)
        options = _options
        if options is None:  # somebody kept the function past `uninstall`
            return forward, backward
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        max_nbytes = bound.arguments["max_nbytes"]
        ours = make_table(
            options,
            stock=forward[np.ndarray],
            max_nbytes=None if max_nbytes is None else int(max_nbytes),
        )
        # A worker that imports samemap installs the defaults by itself.
        default = options == Options() and os.environ.get("SAMEMAP") != "0"
        prepare = None if default else functools.partial(adopt, options)
        ours[joblib.parallel.BatchedCalls] = BatchReducer(
            prepare, None if keeps_batches else Keeper()
        )
        forward.update(ours)
        backward.update(make_table(options, backward=True))
        backward[process_executor._ExceptionWithTraceback] = reduce_failure
        return forward, backward

    return get_memmapping_reducers


def _expire_executor() -> None:
    """Keep loky from reusing an executor whose reducers are others.

    joblib reuses one when these arguments equal the new ones (or are None).
    """
    if joblib.executor._executor_args is not None:
        joblib.executor._executor_args = object()


def _set(options: Options | None) -> None:
    """Go to the state `options`; None is stock joblib."""
    global _options
    with _lock:
        if options == _options:
            return
        if _options is None:
            _check_joblib()
            for module in _MODULES:
                _stock[module] = getattr(module, _NAME)
                reducers = _make_reducers(_stock[module], module is joblib.executor)
                setattr(module, _NAME, reducers)
        elif options is None:
            while _stock:
                module, stock = _stock.popitem()
                setattr(module, _NAME, stock)
        _options = options
        _expire_executor()


def tables_changed() -> None:
    """Make the next executor take the reducers of newly registered classes."""
    if _options is not None:
        _expire_executor()


def adopt(options: Options) -> None:
    """In a worker: go on as the process that sent the task."""
    if _options != options:
        _set(options)


def install(verify: Verify | None = None, strict: bool = False) -> None:
    """Make joblib send arrays on mapped memory as references.

    ``import samemap`` does this already, with the defaults. Installing again
    changes the options; pools that exist keep theirs, except loky's reusable
    executor, which is replaced at the next call.

    Parameters
    ----------
    verify : {None, "layout", "data"}
        Compare each array on arrival with what was sent: its type, dtype, shape,
        strides and flags, or a checksum of its bytes as well.
    strict : bool
        Raise `StrictError` where an array on mapped memory would be copied.

    Raises
    ------
    ValueError
        For another value of `verify`.
    UnsupportedJoblibError
        If joblib's internals are not as expected; joblib is then untouched.
    """
    _set(make_options(verify, strict))


def uninstall() -> None:
    """Give back joblib's own reducers; harmless when they are in force."""
    _set(None)


def installed() -> bool:
    """Tell whether joblib uses samemap's reducers."""
    return _options is not None


@contextmanager
def enabled(verify: Verify | None = None, strict: bool = False) -> Iterator[None]:
    """Install for one ``with`` block, then go back to what was before.

    Parameters
    ----------
    verify, strict
        As for `install`.
    """
    yield from _within(make_options(verify, strict))


@contextmanager
def disabled() -> Iterator[None]:
    """Use joblib's own reducers for one ``with`` block."""
    yield from _within(None)


def _within(options: Options | None) -> Iterator[None]:
    before = _options
    _set(options)
    try:
        yield
    finally:
        _set(before)
