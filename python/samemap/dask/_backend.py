"""joblib's dask backend, with nothing but ``import samemap``.

joblib registers the backend when it is first asked for; that is when the class is
changed. A batch that leads to mapped arrays is written as a batch for joblib's own
pools is (`_envelope.Writer`): what tasks write there is each task's own. All else goes
joblib's way.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
from dask.sizeof import sizeof
from distributed import Future
from distributed.client import _get_global_client

from .. import _remote, _sight, _subclasses
from .._batches import loky_pickler
from .._envelope import Writer
from .._remote import Readers
from .._switch import current_options
from .._tables import Options, Table, make_engine_table
from . import _arrival, _audience, _versions, _wire
from ._plain import is_plain

# joblib scatters what is larger.
_SCATTERED = 1000

_stock: dict[str, Any] = {}
_class: Any = None

# Attributes of a batch, and of a backend while a call goes on.
_CALL = "_samemap_call"
_OPTIONS = "_samemap_options"


class _Call:
    """The callback of one batch, which is called once, with an error too."""

    def __init__(self, callback: Callable[[Any], Any] | None) -> None:
        self._callback = callback
        self._lock = threading.Lock()
        # What the message names that has no path.
        self.held: list[Any] = []

    def __call__(self, result: Any) -> None:
        with self._lock:
            callback, self._callback = self._callback, None
        self.held.clear()
        if callback is not None:
            callback(result)

    def watch(self, future: Any) -> None:
        """Tell joblib of an error that dask has told: it waits for a call for ever."""
        if not future.cancelled() and future.exception() is not None:
            self(future.exception())


# ---- Batches -----------------------------------------------------------------


class _Carried:
    """Stands for an argument that joblib is to leave where it is."""

    __slots__ = ("__weakref__", "value")

    def __init__(self, value: Any) -> None:
        self.value = value


class _Batch:
    """Writes one batch for one cluster."""

    def __init__(self, backend: Any, options: Options, readers: Readers) -> None:
        self.backend = backend
        self.readers = readers
        self.write_through = options.write_through
        self.table: Table = make_engine_table(
            protocol=5, write_through=options.write_through
        )

    def keep(self, value: Any) -> Any:
        """Return an argument, or what stands for it: joblib would scatter it."""
        if is_plain(value) or id(value) in self.backend.data_futures:
            return value
        if isinstance(value, np.ndarray):
            mapped = _shows_map(value)
            if mapped and self.readers.too_long is not None:
                self.readers.too_long(value)
        else:
            # Another object is scattered if it is large.
            mapped = (
                type(value).__weakrefoffset__ != 0
                and sizeof(value) > _SCATTERED
                and _remote.write(value, self.table, self.readers) is not None
            )
        return _Carried(value) if mapped else value

    def write(self, tasks: list[Any], held: list[Any]) -> Any:
        """Return the node that is these tasks; None: they lead to no mapped array."""
        futures: dict[Any, int] = {}
        items = [
            (
                function,
                tuple(self._slot(arg, futures) for arg in args),
                {name: self._slot(arg, futures) for name, arg in kwargs.items()},
            )
            for function, args, kwargs in tasks
        ]
        if all(
            is_plain(part)
            for function, args, kwargs in items
            for part in (function, *args, *kwargs.values())
        ):
            return None
        writer, backings = self._writer()
        count, pending, data, parts = writer.write_tasks(items, held)
        found = bool(backings)
        backings.clear()
        if not found:
            return None
        message = (
            _sight.here().token,
            not self.readers.all_here,
            data,
            *(count, pending, parts),
            self.write_through,
        )
        return _wire.batch_task(message, [*futures])

    def _writer(self) -> tuple[Writer, list[Any]]:
        """Return what writes, and the list of what a message refers to, empty.

        On the event loop of the client, to which the readers belong: by one at a time.
        """
        made = self.readers.made.get(self.write_through)
        if made is None or not self.readers.all_here:
            backings: list[Any] = []
            table = _remote.entries_for(self.table, self.readers, backings)
            made = Writer(loky_pickler, table), backings
            self.readers.made[self.write_through] = made
        made[1].clear()
        return made

    def _slot(self, arg: Any, futures: dict[Any, int]) -> Any:
        if isinstance(arg, Future):
            return _arrival.Slot(futures.setdefault(arg.key, len(futures)))
        return arg.value if isinstance(arg, _Carried) else arg


def _shows_map(array: Any) -> bool:
    if not isinstance(array, np.ndarray) or (
        type(array) not in (np.ndarray, np.memmap)
        and type(array) not in _subclasses.table()
    ):
        return False
    return _subclasses.is_on_map(array)


# ---- What is replaced --------------------------------------------------------


def _make_init(stock: Callable[..., Any]) -> Callable[..., Any]:
    """What goes by reference isn't scattered, though the user says so."""

    @functools.wraps(stock)
    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
        bound = signature.bind(self, *args, **kwargs)
        scatter = bound.arguments.get("scatter")
        if isinstance(scatter, (list, tuple)) and current_options() is not None:
            client = bound.arguments.get("client") or _get_global_client()
            readers = None if client is None else _audience.of(client).readers()
            if readers is not None and not readers.blind:
                bound.arguments["scatter"] = [
                    value
                    for value in scatter
                    if not (_shows_map(value) and _all_see(value, readers))
                ]
        stock(*bound.args, **bound.kwargs)

    signature = inspect.signature(stock)
    return __init__


def _all_see(array: Any, readers: Readers) -> bool:
    table = make_engine_table(protocol=5, counted=False)
    return _remote.write(array, table, readers) is not None


def _make_start_call(stock: Callable[..., Any]) -> Callable[..., Any]:
    """In the caller's thread: what holds for this call, and who is there."""

    @functools.wraps(stock)
    def start_call(self: Any) -> Any:
        options = current_options()
        setattr(self, _OPTIONS, options)
        if options is not None:
            _audience.of(self.client).readers()
        return stock(self)

    return start_call


def _make_submit(stock: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(stock)
    def submit(self: Any, func: Any, callback: Any = None) -> Any:
        if getattr(self, _OPTIONS, None) is None:
            return stock(self, func, callback)
        call = _Call(callback)
        func.__dict__[_CALL] = call
        future = stock(self, func, call)
        future.add_done_callback(call.watch)
        return future

    return submit


def _make_to_func_args(stock: Callable[..., Any]) -> Callable[..., Any]:
    """On the event loop: nothing is asked, and an error has nobody to catch it."""

    @functools.wraps(stock)
    async def _to_func_args(self: Any, func: Any) -> Any:
        call = func.__dict__.get(_CALL)
        options = getattr(self, _OPTIONS, None)
        if call is None or options is None:
            return await stock(self, func)
        readers = _audience.of(self.client).readers(wait=False)
        if readers is None or readers.blind:
            return await stock(self, func)
        try:
            batch = _Batch(self, options, readers)
            items = [
                (
                    function,
                    [batch.keep(arg) for arg in args],
                    {name: batch.keep(arg) for name, arg in kwargs.items()},
                )
                for function, args, kwargs in func.items
            ]
            summary, tasks = await stock(self, SimpleNamespace(items=items))
            node = batch.write(tasks, call.held)
            if node is None:
                # What stands for an argument is in nobody's message.
                if any(
                    isinstance(arg, _Carried)
                    for _, args, kwargs in tasks
                    for arg in (*args, *kwargs.values())
                ):
                    return await stock(self, func)
                return summary, tasks
            return summary, node
        except Exception as error:
            call(error)
            raise asyncio.CancelledError from error

    return _to_func_args


def _make_retrieve(stock: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(stock)
    def retrieve_result_callback(self: Any, out: Any) -> Any:
        results = stock(self, out)
        if isinstance(results, list):
            for number, result in enumerate(results):
                if isinstance(result, _arrival.Result):
                    results[number] = result.open()
        return results

    return retrieve_result_callback


def put_in(backend: Any) -> None:
    """Change joblib's class.

    Raises
    ------
    UnsupportedEngineError
        If it isn't as expected; it is then untouched.
    """
    global _class
    if _class is not None:
        return
    _versions.check()
    _versions.check_backend(backend)
    submit = "submit" if "submit" in backend.__dict__ else "apply_async"
    for name, make in (
        ("__init__", _make_init),
        ("start_call", _make_start_call),
        (submit, _make_submit),
        ("_to_func_args", _make_to_func_args),
        ("retrieve_result_callback", _make_retrieve),
    ):
        _stock[name] = backend.__dict__[name]
        setattr(backend, name, make(_stock[name]))
    _class = backend


def take_out() -> None:
    """Give joblib back its own class."""
    global _class
    while _stock:
        name, stock = _stock.popitem()
        setattr(_class, name, stock)
    _class = None
