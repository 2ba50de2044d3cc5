"""joblib's Ray backend, with nothing but ``import samemap``.

The class is changed when joblib makes a pool for it. A task that leads to mapped arrays
is a message of its own in its batch, and so is a result: what a task writes there is
its own, and an error of loading is the task's own. All else goes joblib's way.
"""

from __future__ import annotations

import functools
import sys
import threading
import types
from collections.abc import Callable
from typing import Any

import ray
from ray.util.joblib.ray_backend import RayBackend

from .._errors import SamemapError
from .._switch import current_options
from .._tables import Table, make_engine_table
from . import _audience, _messages, _versions

_changed: dict[str, Any] = {}
_lock = threading.Lock()

# Attribute of a backend: what holds for its call.
_OPTIONS = "_samemap_options"

_PLAIN = frozenset([type(None), bool, int, float, complex, str, bytes])


class Failure:
    """What loading a message has raised."""

    def __init__(self, error: Exception) -> None:
        self.error = error


class Carried:
    """Is pickled as a message that loads as the object, or as a `Failure`."""

    def __init__(self, obj: Any, table: Table) -> None:
        self._obj = obj
        self._table = table

    def __reduce__(self) -> Any:
        from . import _receive

        return _receive, _messages.write(self._obj, self._table)


def receive(*parts: Any) -> Any:
    """Load what was carried."""
    try:
        return _messages.read(*parts)
    except Exception as error:
        return Failure(error.with_traceback(None))


class _Task:
    """Runs a task that was carried; its result is carried back."""

    def __init__(self, write_through: bool) -> None:
        self._write_through = write_through

    def __call__(self, task: Any) -> Any:
        if isinstance(task, Failure):
            raise task.error
        function, args, kwargs = task
        result = function(*args, **kwargs)
        if type(result) in _PLAIN or not _audience.is_all_here():
            return result
        table = make_engine_table(
            protocol=_messages.PROTOCOL,
            backward=True,
            write_through=self._write_through,
        )
        return Carried(result, table) if _leads_to_map(result, table) else result


def _count_nothing(_: Any) -> Any:
    return str, ()


def _leads_to_map(obj: Any, table: Table) -> bool:
    """Tell whether there is something in an object that goes by reference."""
    # Objects of Ray's would be counted as if they had been sent.
    ours: Table = {ray.ObjectRef: _count_nothing, ray.actor.ActorHandle: _count_nothing}
    try:
        return _messages.look(obj, table, ours)
    except SamemapError:
        raise
    except Exception:
        # Ray is going to say so.
        return False


def _is_by_name(function: Any) -> bool:
    """Tell whether pickling a function is nothing but writing its name."""
    module = sys.modules.get(getattr(function, "__module__", None) or "")
    return (
        type(function) in (types.FunctionType, types.BuiltinFunctionType)
        and function.__module__ != "__main__"
        and getattr(module, function.__qualname__, None) is function
    )


def _carry(task: Any, table: Table, write_through: bool) -> Any:
    function, args, kwargs = task
    plain = all(type(part) in _PLAIN for part in (*args, *kwargs.values()))
    if (plain and _is_by_name(function)) or not _leads_to_map(task, table):
        return task
    return _Task(write_through), (Carried((function, args, kwargs), table),), {}


# ---- What is replaced --------------------------------------------------------


def _make_start_call(stock: Callable[..., Any]) -> Callable[..., Any]:
    """In the caller's thread: what holds for this call."""

    @functools.wraps(stock)
    def start_call(self: Any) -> Any:
        setattr(self, _OPTIONS, current_options())
        return stock(self)

    return start_call


def _make_submit(stock: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(stock)
    def submit(self: Any, func: Any, callback: Any = None) -> Any:
        options = getattr(self, _OPTIONS, None)
        driver = _audience.mode() == "driver"
        if options is not None and driver and _audience.is_all_here():
            table = make_engine_table(
                protocol=_messages.PROTOCOL, write_through=options.write_through
            )
            func.items = [
                _carry(task, table, options.write_through) for task in func.items
            ]
        return stock(self, func, callback)

    return submit


def _make_retrieve(stock: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(stock)
    def retrieve_result_callback(self: Any, *args: Any, **kwargs: Any) -> Any:
        results = stock(self, *args, **kwargs)
        if isinstance(results, list):
            for result in results:
                if isinstance(result, Failure):
                    raise result.error
        return results

    return retrieve_result_callback


def put_in(backend: Any) -> None:
    """Change joblib's class.

    Raises
    ------
    UnsupportedEngineError
        If it isn't as expected; it is then untouched.
    """
    if not isinstance(backend, type) or not issubclass(backend, RayBackend):
        return
    with _lock:
        if _changed:
            return
        _versions.check()
        _versions.check_backend(RayBackend)
        for name, make in (
            ("start_call", _make_start_call),
            (_versions.submit_of(RayBackend), _make_submit),
            ("retrieve_result_callback", _make_retrieve),
        ):
            _changed[name] = RayBackend.__dict__.get(name)
            setattr(RayBackend, name, make(getattr(RayBackend, name)))


def take_out() -> None:
    """Give joblib back its own class."""
    with _lock:
        while _changed:
            name, stock = _changed.popitem()
            if stock is None:
                # Its parents' own is in force again.
                delattr(RayBackend, name)
            else:
                setattr(RayBackend, name, stock)
