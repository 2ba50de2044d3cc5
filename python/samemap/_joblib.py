"""Putting samemap's reducers into joblib, and taking them out again.

``get_memmapping_reducers`` is replaced in ``joblib.executor`` (loky) and in
``joblib.pool`` (multiprocessing), and loky's reusable executor is asked for through
a function of ours, which has one made with other options replaced. The default of
``mmap_mode`` becomes one that is known again, batches note when they are made, and the
clean-up after a call tells us of its end. Everything else stays joblib's. The functions
do what the caller's options say (_switch.py).
"""

from __future__ import annotations

import functools
import inspect
import os
import tempfile
from collections.abc import Callable
from typing import Any

import joblib
import joblib.executor
import joblib.parallel
import joblib.pool
import numpy as np
from joblib._memmapping_reducer import TemporaryResourcesManager
from joblib.externals.loky import process_executor, reusable_executor

from . import _engines, _lost
from ._batches import (
    NUMBER,
    BatchReducer,
    FailureReducer,
    Keeper,
    Results,
    ResultsReducer,
    Written,
    loky_pickler,
    pool_pickler,
)
from ._core import forget_images, new_number
from ._envelope import Exports, Writer
from ._errors import UnsupportedJoblibError
from ._subclasses import overlay
from ._switch import adopt, current_options
from ._tables import Options, Table, make_table

SUPPORTED = "1.3 to 1.6"

_NAME = "get_memmapping_reducers"
_MODULES = (joblib.executor, joblib.pool)
_ARGUMENTS = {"forward_reducers", "backward_reducers", "max_nbytes"}

_FACTORY = "get_memmapping_executor"

_stock: dict[Any, Callable[..., tuple[Table, Table]]] = {}
_stock_factory: Any = None
_stock_mode: Any = None
_stock_init: Any = None

# For whom the reusable executor was made.
_executor_options: tuple[Options | None, bool] | None = None


# How many workers that has.
_loky_workers = 1


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
    if not hasattr(TemporaryResourcesManager, "_clean_temporary_resources"):
        raise _unsupported("temporary folders are cleaned up otherwise")
    if not hasattr(joblib.executor, "_executor_args"):
        raise _unsupported("joblib.executor has no _executor_args")
    executor = getattr(joblib.executor, "MemmappingExecutor", None)
    if not isinstance(getattr(executor, "__dict__", {}).get(_FACTORY), classmethod):
        raise _unsupported(f"MemmappingExecutor.{_FACTORY} is no class method")
    for name in ("_executor_lock", "_executor", "_executor_kwargs"):
        if not hasattr(reusable_executor, name):
            raise _unsupported(f"the reusable executor has no {name}")
    if not isinstance(getattr(_default_mode(), "default_value", None), str):
        raise _unsupported("the default of mmap_mode is kept otherwise")
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


def _default_mode() -> Any:
    """Return what stands for a mode that isn't given: frozen, and known by identity."""
    return joblib.parallel.default_parallel_config["mmap_mode"]


class DefaultMode(str):
    """joblib's default ``mmap_mode``, to be told from the same that a user names.

    A mode that is named is a wish: then joblib dumps large arrays, as documented.
    """

    def plain(self) -> str:
        return str.__str__(self)

    def __reduce__(self) -> tuple[type[str], tuple[str]]:
        return str, (self.plain(),)


def _find_cleaner(temp_folder_resolver: Any) -> _Cleaner | None:
    """Put ourselves before the clean-up of one pool; None: it has none that we know.

    It belongs to joblib's TemporaryResourcesManager, of which reducers get a method.
    """
    manager = getattr(temp_folder_resolver, "__self__", None)
    clean = getattr(manager, "_clean_temporary_resources", None)
    if clean is None:
        return None
    if not isinstance(clean, _Cleaner):
        clean = _Cleaner(clean)
        manager._clean_temporary_resources = clean  # type: ignore[union-attr]
    return clean


def _find_folders(manager: Any) -> tuple[bytes | None, bytes | None]:
    """Return the folder that the user named, as joblib finds it, or the system's."""
    named = getattr(manager, "_temp_folder_root", None)
    folder = named or os.environ.get("JOBLIB_TEMP_FOLDER")
    if folder:
        return os.fsencode(folder), None
    try:
        return None, os.fsencode(tempfile.gettempdir())
    except FileNotFoundError:  # none of those can be written to
        return None, None


def _count_loky_workers() -> int:
    return _loky_workers


class _Cleaner:
    """joblib's clean-up at the end of a call or of a ``with Parallel`` block, and ours.

    What unfinished tasks of other calls need is held by their messages.
    """

    def __init__(self, clean: Callable[..., None]) -> None:
        self._clean = clean
        self.written = Written()

    def __call__(
        self, context_id: Any = None, force: bool = False, **kwargs: Any
    ) -> None:
        forget_images()
        if force:
            # The workers were killed.
            self.written.let_go()
        self._clean(context_id, force=force, **kwargs)
        _lost.warn()


def _make_reducers(
    stock: Callable[..., tuple[Table, Table]], pickler_class: Callable[..., Any]
) -> Callable[..., Any]:
    """Wrap `get_memmapping_reducers`: its tables with our entries on top."""
    keeps_batches = pickler_class is loky_pickler
    signature = inspect.signature(stock)

    @functools.wraps(stock)
    def get_memmapping_reducers(*args: Any, **kwargs: Any) -> tuple[Table, Table]:
        options = current_options()
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        mode = bound.arguments["mmap_mode"]
        if isinstance(mode, DefaultMode):
            bound.arguments["mmap_mode"] = mode.plain()
        if options is None:
            return stock(*bound.args, **bound.kwargs)
        _engines.look()
        # joblib adds its entries to the user's dicts.
        user_forward, user_backward = (
            dict(bound.arguments[f"{way}_reducers"] or {})
            for way in ("forward", "backward")
        )
        forward, backward = stock(*bound.args, **bound.kwargs)
        max_nbytes = bound.arguments["max_nbytes"]
        max_nbytes = None if max_nbytes is None else int(max_nbytes)
        ours = make_table(options, stock=forward[np.ndarray], max_nbytes=max_nbytes)
        exports = cleaner = None
        if options.memory and isinstance(mode, DefaultMode) and max_nbytes is not None:
            resolver = bound.arguments["temp_folder_resolver"]
            cleaner = _find_cleaner(resolver)
        if cleaner is not None:
            # Of a pool it stays the same, and costs 40 µs to look up.
            workers = joblib.cpu_count()
            count = _count_loky_workers if keeps_batches else lambda: workers
            find = functools.partial(_find_folders, resolver.__self__)
            exports = Exports(max_nbytes, find, count)
        # A worker that imports samemap installs the defaults by itself.
        default = options == Options() and os.environ.get("SAMEMAP") != "0"
        prepare = None if default else functools.partial(adopt, options)
        forward = overlay(forward, ours, user_forward)
        backward = overlay(backward, make_table(options, backward=True), user_backward)
        # Copies: the envelopes' picklers have no use for the entries added here.
        writer = Writer(pickler_class, dict(forward), exports)
        forward[joblib.parallel.BatchedCalls] = BatchReducer(
            writer,
            prepare,
            None if keeps_batches else Keeper(),
            cleaner.written if cleaner is not None and keeps_batches else None,
        )
        writer = Writer(pickler_class, dict(backward))
        backward[Results] = ResultsReducer(writer, options.memory)
        backward[process_executor._ExceptionWithTraceback] = FailureReducer(
            writer, options.memory
        )
        return forward, backward

    return get_memmapping_reducers


def _make_factory(stock: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap `get_memmapping_executor`: none is reused that has other options."""

    @functools.wraps(stock)
    def get_memmapping_executor(
        cls: type, n_jobs: int, *args: Any, **kwargs: Any
    ) -> Any:
        global _executor_options, _loky_workers
        # loky's own lock, for longer than loky holds it: between the comparison
        # and the choice no other thread may replace the executor.
        with reusable_executor._executor_lock:
            mode = kwargs.get("mmap_mode")
            options = current_options(), isinstance(mode, DefaultMode)
            if options != _executor_options:
                _let_go_of_executor()
            try:
                executor = stock(cls, n_jobs, *args, **kwargs)
            except BaseException:
                expire_executor()
                raise
            _executor_options = options
            _loky_workers = n_jobs
            return executor

    return get_memmapping_executor


def _make_init(stock: Callable[..., None]) -> Callable[..., None]:
    """Wrap ``BatchedCalls.__init__``: a batch knows when it was made.

    Many batches are made before the first is pickled, in a thread of the pool's: any
    state that their arrays have in between is right, and looked at once.
    """

    @functools.wraps(stock)
    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
        stock(self, *args, **kwargs)
        setattr(self, NUMBER, new_number())

    return __init__


def _let_go_of_executor() -> None:
    """Make loky forget its executor, which ends when nobody uses it any more.

    Replaced by loky it would be shut down, and the tasks that another thread still
    has for it would go to the executor in its place.
    """
    reusable_executor._executor = None
    reusable_executor._executor_kwargs = None


def expire_executor() -> None:
    """Keep loky from reusing an executor whose reducers are others.

    joblib reuses one when these arguments equal the new ones (or are None).
    """
    if joblib.executor._executor_args is not None:
        joblib.executor._executor_args = object()


def put_in() -> None:
    """Replace joblib's functions.

    Raises
    ------
    UnsupportedJoblibError
        If joblib's internals are not as expected; joblib is then untouched.
    """
    global _stock_factory, _stock_mode, _stock_init
    _check_joblib()
    for module in _MODULES:
        _stock[module] = getattr(module, _NAME)
        pickler_class = loky_pickler if module is joblib.executor else pool_pickler
        reducers = _make_reducers(_stock[module], pickler_class)
        setattr(module, _NAME, reducers)
    executor = joblib.executor.MemmappingExecutor
    _stock_factory = executor.__dict__[_FACTORY]
    setattr(executor, _FACTORY, classmethod(_make_factory(_stock_factory.__func__)))
    _stock_mode = _default_mode().default_value
    object.__setattr__(_default_mode(), "default_value", DefaultMode(_stock_mode))
    _stock_init = joblib.parallel.BatchedCalls.__init__
    joblib.parallel.BatchedCalls.__init__ = _make_init(_stock_init)
    _engines.put_in()
    expire_executor()


def take_out() -> None:
    """Give joblib back its own functions."""
    _engines.take_out()
    while _stock:
        module, stock = _stock.popitem()
        setattr(module, _NAME, stock)
    setattr(joblib.executor.MemmappingExecutor, _FACTORY, _stock_factory)
    object.__setattr__(_default_mode(), "default_value", _stock_mode)
    joblib.parallel.BatchedCalls.__init__ = _stock_init
    expire_executor()
