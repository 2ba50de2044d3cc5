"""joblib's messages: batches of tasks, their results, and what a task raises.

joblib hands a worker a ``BatchedCalls``, and gets back the list of results or the
exception of a task. All three are reduced here and travel in an envelope.
"""

from __future__ import annotations

import functools
import itertools
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import joblib.pool
import numpy as np
from joblib.externals.loky.backend import reduction

from . import _exports, _lost
from ._core import take_lost
from ._envelope import Receipts, Tasks, Writer, read_tasks
from ._errors import SamemapError

Ticket = tuple[int, int]

# Attributes of a batch: the number that was the newest when it was made, and what its
# message holds.
NUMBER = "_samemap_number"
HELD = "_samemap_held"

_keepers: weakref.WeakValueDictionary[int, Keeper] = weakref.WeakValueDictionary()
_keeper_numbers = itertools.count(1)

# Results of these types hold no array, and loading them can't fail.
_PLAIN = frozenset(
    [type(None), bool, int, float, complex, str, bytes, np.float64, np.int64, np.bool_]
)


def loky_pickler() -> Any:
    """Return the class of the picklers of loky's queues: cloudpickle's, or another."""
    return reduction.get_loky_pickler()


def pool_pickler() -> Any:
    """Return the class of the picklers of joblib's multiprocessing pool."""
    return joblib.pool.CustomizablePickler


class Keeper:
    """What the messages of one pool name, kept until their results are back.

    multiprocessing drops a task's arguments once they are pickled. The map could
    be closed then, and its descriptor, shared memory or inode be used again,
    before the worker opens it. A keeper lives as long as its pool. loky's batches
    need none: they are kept themselves.
    """

    def __init__(self) -> None:
        self._held: dict[int, list[Any]] = {}
        self._number = next(_keeper_numbers)
        self._tickets = itertools.count(1)
        _keepers[self._number] = self

    def hold(self) -> tuple[Ticket, list[Any]]:
        """Return a list for what is to be kept, and the ticket that ends it."""
        ticket = next(self._tickets)
        held: list[Any] = []
        self._held[ticket] = held
        return (self._number, ticket), held

    def release(self, ticket: int) -> None:
        """Let go what was held for `ticket`; a second time has no effect."""
        self._held.pop(ticket, None)


def release(ticket: Ticket | None) -> None:
    """Let go what a keeper of this process held, if that still exists."""
    if ticket is None:
        return
    number, count = ticket
    keeper = _keepers.get(number)
    if keeper is not None:
        keeper.release(count)


class Written:
    """The batches that were written for one executor, as long as they exist.

    loky may keep those of a call that was aborted for as long as the caller keeps its
    error, though their workers are dead.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._batches: weakref.WeakSet[Any] = weakref.WeakSet()

    def add(self, batch: Any) -> None:
        """Note a batch that is being written."""
        with self._lock:
            self._batches.add(batch)

    def let_go(self) -> None:
        """Let go what the messages hold: nobody reads them any more."""
        with self._lock:
            batches = list(self._batches)
        for batch in batches:
            batch.__dict__.pop(HELD, None)


class ByName:
    """Decorates a function so that pickling it is nothing but writing its name.

    cloudpickle, loky's pickler, otherwise takes 5 µs for each function or class
    of a message to find out whether it can be imported where it arrives.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        functools.update_wrapper(self, function)
        self._function = function

    def __call__(self, *args: Any) -> Any:
        return self._function(*args)

    def __reduce__(self) -> str:
        return self._function.__qualname__


class BatchReducer:
    """Reducer of ``BatchedCalls``, for the forward dispatch table of one pool.

    It is pickled into workers with the rest of the table, where it reduces
    nothing: what it needs for that stays behind.

    Parameters
    ----------
    writer : Writer or None
        With the table of the pool.
    prepare : callable, optional
        Called in the worker before each batch; pickled along with it.
    keeper : Keeper, optional
        None for a pool that keeps each batch until its results are back.
    written : Written, optional
        Of that pool.
    """

    def __init__(
        self,
        writer: Writer | None,
        prepare: Callable[[], None] | None = None,
        keeper: Keeper | None = None,
        written: Written | None = None,
    ) -> None:
        self.writer = writer
        self.prepare = prepare
        self.keeper = keeper
        self.written = written

    def __reduce__(self) -> tuple[type[BatchReducer], tuple[Any, ...]]:
        return BatchReducer, (None,)

    def __call__(self, batch: Any) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        assert self.writer is not None
        ticket: Ticket | None = None
        if self.keeper is not None:
            ticket, held = self.keeper.hold()
        else:
            # Not longer than the batch: the executor outlives a call that fails.
            held = batch.__dict__.setdefault(HELD, [])
            if self.written is not None:
                self.written.add(batch)
        cls, (tasks, *rest) = batch.__reduce__()
        try:
            since = batch.__dict__.get(NUMBER, 0)
            message = self.writer.write_tasks(tasks, held, since)
        except (SamemapError, OSError) as error:
            # Raised here it would reach the caller as that of a pickler: what is
            # wrong with a map, or a disk that is too full for joblib's dump.
            return rebuild_failed_batch, (ticket, error.with_traceback(None))
        return rebuild_batch, (ticket, self.prepare, cls, rest, message)


class Batch:
    """joblib's batch in the worker: reads it, runs it and sends the results our way."""

    def __init__(
        self,
        ticket: Ticket | None,
        prepare: Callable[[], None] | None,
        cls: Callable[..., Callable[[], list[Any]]],
        rest: list[Any],
        message: Tasks,
    ) -> None:
        self.ticket = ticket
        self.prepare = prepare
        self.cls = cls
        self.rest = rest
        self.message = message

    def __call__(self) -> Results:
        _exports.begin_task()
        if self.prepare is not None:
            self.prepare()
        batch = self.cls(read_tasks(self.message), *self.rest)
        del self.message
        results = batch()
        return Results(results, self.ticket, take_lost())


@ByName
def rebuild_batch(*parts: Any) -> Batch:
    """Undo `BatchReducer`."""
    return Batch(*parts)


class FailedBatch:
    """A batch that could not be written. It fails as a task, where joblib looks."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def __call__(self) -> NoReturn:
        raise self.error


@ByName
def rebuild_failed_batch(ticket: Ticket | None, error: BaseException) -> FailedBatch:
    """Undo `BatchReducer` for a batch that could not be written."""
    return FailedBatch(error)


class Results(list[Any]):
    """The results of a batch on their way back."""

    def __init__(
        self, results: list[Any], ticket: Ticket | None, lost: _lost.Lost = (0, 0)
    ) -> None:
        super().__init__(results)
        self.ticket = ticket
        self.lost = lost

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.wrap(rebuild_plain_results, (self.ticket, list(self)))

    def wrap(
        self, rebuild: Callable[..., Any], args: tuple[Any, ...]
    ) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        """Put what was lost around a reduction, if anything was."""
        if self.lost == (0, 0):
            return rebuild, args
        return rebuild_with_lost, (self.lost, rebuild, args)


def _write(
    writer: Writer, obj: Any, memory: bool
) -> tuple[bytes] | tuple[bytes, Receipts]:
    """Pickle what the caller gets; with receipts if there are any to be given."""
    if not memory:
        return (writer.write(obj),)
    data, receipts = writer.write_results(obj)
    if not receipts:
        return (data,)
    _exports.expect_receipts()
    return data, receipts


class ResultsReducer:
    """Reducer of `Results`, for the backward dispatch table of one pool.

    Parameters
    ----------
    writer : Writer
        With the table of the pool.
    memory : bool
        Large arrays go by memory files.
    """

    def __init__(self, writer: Writer, memory: bool) -> None:
        self.writer = writer
        self.memory = memory

    def __call__(self, results: Results) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        if _PLAIN.issuperset(map(type, results)):
            return results.__reduce__()
        try:
            message = _write(self.writer, list(results), self.memory)
        except SamemapError as error:
            return rebuild_failed_results, (results.ticket, error.with_traceback(None))
        return results.wrap(rebuild_results, (results.ticket, *message))


@ByName
def rebuild_with_lost(
    lost: _lost.Lost, rebuild: Callable[..., Any], args: tuple[Any, ...]
) -> Any:
    """Undo `Results.wrap` in the caller."""
    _lost.add(lost)
    return rebuild(*args)


@ByName
def rebuild_plain_results(ticket: Ticket | None, results: list[Any]) -> list[Any]:
    """Undo `Results`."""
    release(ticket)
    return results


@ByName
def rebuild_results(
    ticket: Ticket | None, message: bytes, receipts: Receipts = ()
) -> list[Any] | FailedResults:
    """Undo `ResultsReducer` in the caller: the list, or what raises the error."""
    results: list[Any] | FailedResults
    try:
        results = _exports.load(message, receipts)
    except Exception as error:
        results = FailedResults(error)
    # Not before: what the results name of the caller's is open until here.
    release(ticket)
    return results


@ByName
def rebuild_failed_results(
    ticket: Ticket | None, error: BaseException
) -> FailedResults:
    """Undo `ResultsReducer` for results that could not be written."""
    release(ticket)
    return FailedResults(error)


class FailedResults:
    """Results that could not be read: raises when the caller takes them."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def __iter__(self) -> Iterator[Any]:
        raise self.error


class FailureReducer:
    """Reducer of a task's exception as both pools send it: with a text beside it."""

    def __init__(self, writer: Writer, memory: bool) -> None:
        self.writer = writer
        self.memory = memory

    def __call__(self, failure: Any) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        rebuild, (exception, *text) = failure.__reduce__()
        try:
            message = _write(self.writer, exception, self.memory)
        except SamemapError as error:
            # An array that it carries. Its own error says less than that of the task
            # would, but is what can be had.
            message = _write(self.writer, error, False)
        return rebuild_failure, (rebuild, message, *text)


@ByName
def rebuild_failure(
    rebuild: Callable[..., BaseException],
    message: tuple[bytes] | tuple[bytes, Receipts],
    *text: str,
) -> BaseException:
    """Undo `FailureReducer`: the exception, or what was raised in loading it.

    In both cases `rebuild` adds the text of the worker's traceback.
    """
    try:
        exception = _exports.load(*message)
    except Exception as error:
        exception = error
    return rebuild(exception, *text)
