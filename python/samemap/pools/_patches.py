"""Putting samemap into the standard library's pools and queues, and taking it out.

Replaced are, each by something that asks for the options of this process:

- the name of the pickler in ``multiprocessing.queues`` (all queues, and what executors
  send), and ``Connection.send`` (pipes, and the tasks of a pool). ``ForkingPickler``
  itself stays as it is: who pickles to disk with it, or asks it for bytes, gets data.
- the end of what starts a process by spawn or forkserver: its arguments go our way, and
  the new process is told to do the same.
- of ``Pool``, who sends tasks and takes results, and the function that its workers run.
- of an executor's queue of calls, how it is made, and what takes a call from it.
"""

from __future__ import annotations

import array
import fcntl
import importlib
import inspect
import os
import platform
import socket
import stat
import sys
import termios
import threading
import time
import weakref
from collections.abc import Callable
from concurrent.futures import process
from multiprocessing import (
    connection,
    pool,
    popen_forkserver,
    popen_spawn_posix,
    queues,
    reduction,
)
from multiprocessing.process import BaseProcess
from typing import Any

from .. import _exports, _subclasses
from .._errors import UnsupportedEngineError
from ._messages import Messages, Options

SUPPORTED = (3, 11), (3, 15)

_lock = threading.RLock()
_messages: Messages | None = None

# What is restored: (where, name), and what was there; MISSING: nothing.
_stock: dict[tuple[Any, str], Any] = {}
_MISSING = object()

_ForkingPickler: Any = reduction.ForkingPickler
_Connection: Any = connection._ConnectionBase
_SafeQueue: Any = process._SafeQueue

# Those of executors that were made since.
_call_queues: weakref.WeakSet[Any] = weakref.WeakSet()


def current() -> Messages | None:
    """Return who writes the messages of this process; None: stock does."""
    return _messages


# ---- Queues and pipes --------------------------------------------------------


class Pickler(_ForkingPickler):  # type: ignore[misc]
    """What ``multiprocessing.queues`` pickles with."""

    @classmethod
    def dumps(cls, obj: Any, protocol: int | None = None) -> Any:
        messages = _messages
        if messages is None or protocol is not None:
            return _ForkingPickler.dumps(obj, protocol)
        return messages.dumps(obj)


def _is_pipe(fd: int) -> bool:
    """Tell whether the other end of a connection is one that `Pipe` has made.

    What a `Client` or `Listener` talks to may be on another host, and a manager keeps
    for long what it gets.
    """
    mode = os.fstat(fd).st_mode
    if not stat.S_ISSOCK(mode):
        return stat.S_ISFIFO(mode)
    end = socket.socket(fileno=fd)
    try:
        return end.family == socket.AF_UNIX and not (
            end.getsockname() or end.getpeername()
        )
    except OSError:
        return False
    finally:
        end.detach()


def _send(self: Any, obj: Any) -> None:
    """Send a (picklable) object"""
    self._check_closed()
    self._check_writable()
    messages = _messages
    if messages is None:
        data = _ForkingPickler.dumps(obj)
    else:
        buffer, held = messages.lasting(obj)
        if held and not _is_pipe(self.fileno()):
            data = _ForkingPickler.dumps(obj)
        else:
            data = buffer.getbuffer()
    self._send_bytes(data)


# ---- Processes ---------------------------------------------------------------


class _Adopt:
    """Unpickled in a new process: it goes on as the one that has started it."""

    def __init__(self, options: Options) -> None:
        self.options = options

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return adopt, (self.options,)


class _Started:
    def __init__(self, options: Options, process: BaseProcess) -> None:
        self.parts = _Adopt(options), process

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return load_process, self.parts


def load_process(adopted: None, process: BaseProcess) -> BaseProcess:
    """Undo `_Started`. The process was loaded last."""
    return process


def _dump(obj: Any, file: Any, protocol: int | None = None) -> None:
    """Replacement for pickle.dump() using ForkingPickler."""
    messages = _messages
    if messages is None or protocol is not None or not isinstance(obj, BaseProcess):
        reduction.dump(obj, file, protocol)
        return
    buffer, held = messages.lasting(_Started(messages.options, obj))
    file.write(buffer.getbuffer())
    if held:
        # Memory that was made to be shared has no name: until the process has it.
        obj.__dict__["_samemap_held"] = held


class _Reduction:
    """``multiprocessing.reduction`` for those who start processes."""

    dump = staticmethod(_dump)

    def __getattr__(self, name: str) -> Any:
        return getattr(reduction, name)


# ---- Pools -------------------------------------------------------------------


_SimpleQueue: Any = queues.SimpleQueue


class TaskQueue(_SimpleQueue):  # type: ignore[misc]
    """Where a worker of a pool takes its tasks from."""

    def get(self) -> Any:
        task = super().get()
        _exports.begin_task()
        return task


class ResultQueue(_SimpleQueue):  # type: ignore[misc]
    """Where a worker of a pool puts its results."""

    def put(self, obj: Any) -> None:
        messages = _messages
        if messages is None or not isinstance(obj, tuple):
            super().put(obj)
            return
        data = messages.result(obj)
        with self._wlock:
            self._writer.send_bytes(data)


def work(inqueue: Any, outqueue: Any, *args: Any) -> None:
    """Run what a pool's workers run, on queues of ours if they are stock's."""
    if type(inqueue) is type(outqueue) is _SimpleQueue:
        inqueue.__class__, outqueue.__class__ = TaskQueue, ResultQueue
    _stock_of(pool, "worker")(inqueue, outqueue, *args)


# Seconds between two looks at a pipe.
_SHORTEST, _LONGEST = 5e-5, 1e-3


def _wait_for_readers(writer: Any, nbytes: int) -> None:
    """Wait while as many messages as there are processors are to be read.

    Stock's pool sends large arrays through the pipe, and so makes no more than its
    workers take. The name of a memory file is short: of tasks from a generator
    hundreds would be made, and their files be in memory, before a worker has one.
    """
    unread = array.array("i", [0])
    limit, pause = nbytes * (os.cpu_count() or 1), _SHORTEST
    while True:
        fcntl.ioctl(writer.fileno(), termios.FIONREAD, unread)
        if unread[0] < limit:
            return
        time.sleep(pause)
        pause = min(2 * pause, _LONGEST)


def _set_up_queues(self: Any) -> None:
    _stock_of(pool.Pool, "_setup_queues")(self)
    if type(self._inqueue) is not _SimpleQueue:
        return
    holds: dict[tuple[int, int], Any] = {}
    ended: list[Any] = []
    writer, receive = self._inqueue._writer, self._quick_get

    def quick_put(task: Any) -> None:
        messages = _messages
        if messages is None or task is None:
            writer.send(task)
            return
        writer._check_closed()
        writer._check_writable()
        data, hold = messages.task(task)
        if hold is not None:
            holds[task[:2]] = hold
            if hold.has_files:
                _wait_for_readers(writer, len(data))
        writer._send_bytes(data)

    def quick_get() -> Any:
        # Of the last result, when it has been handed over: freeing memory takes time.
        ended.clear()
        result = receive()
        if holds and result is not None:
            ended.append(holds.pop(result[:2], None))
        return result

    self._quick_put, self._quick_get = quick_put, quick_get


# ---- Executors ---------------------------------------------------------------


def _init_call_queue(self: Any, *args: Any, **kwargs: Any) -> None:
    _stock_of(_SafeQueue, "__init__")(self, *args, **kwargs)
    with _lock:
        _call_queues.add(self)


def _get_call(self: Any, *args: Any, **kwargs: Any) -> Any:
    call = queues.Queue.get(self, *args, **kwargs)
    _exports.begin_task()
    return call


def _find_work(call: Any) -> Any:
    """Return what an executor of this process keeps until the call has its result."""
    # Another thread may be making an executor.
    with _lock:
        call_queues = list(_call_queues)
    for queue in call_queues:
        work = queue.pending_work_items.get(call.work_id)
        if work is not None and work.kwargs is call.kwargs and work.fn is call.fn:
            return work
    return None


# ---- In and out --------------------------------------------------------------


def _patches() -> list[tuple[Any, str, Any]]:
    launcher = _Reduction()
    return [
        (queues, "_ForkingPickler", Pickler),
        (_Connection, "send", _send),
        (popen_spawn_posix, "reduction", launcher),
        (popen_forkserver, "reduction", launcher),
        (pool, "worker", work),
        (pool.Pool, "_setup_queues", _set_up_queues),
        (_SafeQueue, "__init__", _init_call_queue),
        (_SafeQueue, "get", _get_call),
    ]


def _stock_of(where: Any, name: str) -> Any:
    """Return what was there, or is there again."""
    return _stock.get((where, name)) or getattr(where, name)


# Whose parameters are relied on.
_SIGNATURES: list[tuple[Any, str, list[str]]] = [
    (process, "_CallItem", ["work_id", "fn", "args", "kwargs"]),
    (process, "_ResultItem", ["work_id", "exception", "result", "exit_pid"]),
    (process, "_WorkItem", ["future", "fn", "args", "kwargs"]),
    (pool, "worker", ["inqueue", "outqueue"]),
    (pool.Pool, "_setup_queues", ["self"]),
    (_Connection, "send", ["self", "obj"]),
    (_ForkingPickler, "dumps", ["obj", "protocol"]),
    (reduction, "dump", ["obj", "file", "protocol"]),
]


def _unsupported(found: str) -> UnsupportedEngineError:
    return UnsupportedEngineError(
        "samemap works with the pools of CPython "
        f"{'.'.join(map(str, SUPPORTED[0]))} to {'.'.join(map(str, SUPPORTED[1]))}; in "
        f"{platform.python_implementation()} {platform.python_version()} {found}"
    )


def check() -> None:
    """Look at all that is relied on.

    Raises
    ------
    UnsupportedEngineError
        Saying what is otherwise.
    """
    if not SUPPORTED[0] <= sys.version_info[:2] <= SUPPORTED[1]:
        raise _unsupported("they were not tried")
    for where, name, parameters in _SIGNATURES:
        function = getattr(where, name, None)
        if not callable(function):
            raise _unsupported(f"{where.__name__} has no {name}")
        found = inspect.signature(function).parameters
        names, more = list(found), list(found.values())[len(parameters) :]
        if names[: len(parameters)] != parameters or any(
            parameter.default is parameter.empty for parameter in more
        ):
            raise _unsupported(f"{where.__name__}.{name} takes {', '.join(names)}")
    for module in (queues, connection):
        if getattr(module, "_ForkingPickler", None) is not _ForkingPickler:
            raise _unsupported(f"{module.__name__} pickles otherwise")
    for launcher in (popen_spawn_posix, popen_forkserver):
        if getattr(launcher, "reduction", None) is not reduction:
            raise _unsupported(f"{launcher.__name__} starts processes otherwise")
    if "get" in vars(_SafeQueue) or not issubclass(_SafeQueue, queues.Queue):
        raise _unsupported("executors take their calls otherwise")
    for where, name in (
        (_Connection, "_check_closed"),
        (_Connection, "_check_writable"),
        (connection.Connection, "_send_bytes"),
    ):
        if not callable(getattr(where, name, None)):
            raise _unsupported(f"connections have no {name}")


def put_in(options: Options) -> None:
    """Replace what the head of this file says, or change the options.

    Raises
    ------
    UnsupportedEngineError
        If something is not as expected; nothing is touched then.
    """
    global _messages
    with _lock:
        if not _stock:
            check()
            for where, name, ours in _patches():
                _stock[where, name] = vars(where).get(name, _MISSING)
                setattr(where, name, ours)
        messages = Messages(options)
        messages.find_work = _find_work
        _messages = messages


def take_out() -> None:
    """Give back all that was replaced; pools that exist go on as stock's."""
    global _messages
    with _lock:
        _messages = None
        for (where, name), stock in list(_stock.items()):
            if stock is _MISSING:
                delattr(where, name)
            else:
                setattr(where, name, stock)
            del _stock[where, name]


def adopt(options: Options) -> None:
    """In a new process: go on as the one that has started it."""
    put_in(options)
    for engine in options.engines - {"pools"}:
        importlib.import_module(f"samemap.{engine}").adopt()


def add(engine: str, write_through: bool, memory: bool) -> None:
    """Install for an engine; the options are everybody's.

    Raises
    ------
    UnsupportedEngineError
        As for `put_in`.
    """
    put_in(Options(write_through, memory, asked() | {engine}))


def remove(engine: str) -> None:
    """Uninstall for an engine; what others have asked for stays."""
    with _lock:
        if _messages is None:
            return
        engines = asked() - {engine}
        if engines:
            put_in(_messages.options._replace(engines=engines))
        else:
            take_out()


def asked() -> frozenset[str]:
    """Return for which engines this process is installed."""
    messages = _messages
    return frozenset() if messages is None else messages.options.engines


def _forget_classes() -> None:
    messages = _messages
    if messages is not None:
        messages.forget_classes()


_subclasses.listeners.append(_forget_classes)


def _after_fork() -> None:
    """Another thread may have held the lock; executors are the parent's."""
    global _lock
    _lock = threading.RLock()


os.register_at_fork(after_in_child=_after_fork)
