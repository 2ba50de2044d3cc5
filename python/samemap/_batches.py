"""Batches of tasks and of results: one message each, errors and holds included.

joblib hands a worker a ``BatchedCalls``, and gets back the list of results or what
a task has raised. All are reduced here, so that every message begins with an
``Outgoing`` (its reader then notes errors instead of raising them where nobody
would see them) and ends with a function of ours that looks at the notes.
"""

from __future__ import annotations

import functools
import itertools
import weakref
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

from ._core import Incoming, Outgoing

Ticket = tuple[int, int]

_keepers: weakref.WeakValueDictionary[int, Keeper] = weakref.WeakValueDictionary()
_keeper_numbers = itertools.count(1)


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
    nothing: the keeper stays behind.

    Parameters
    ----------
    prepare : callable or None
        Called in the worker before each batch; pickled along with it.
    keeper : Keeper, optional
        None for a pool that keeps each batch until its results are back.
    """

    def __init__(
        self, prepare: Callable[[], None] | None, keeper: Keeper | None = None
    ) -> None:
        self.prepare = prepare
        self.keeper = keeper

    def __reduce__(self) -> tuple[type[BatchReducer], tuple[Any, ...]]:
        return BatchReducer, (self.prepare,)

    def __call__(self, batch: Any) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        ticket: Ticket | None = None
        if self.keeper is not None:
            ticket, held = self.keeper.hold()
        else:
            # Not longer than the batch: the executor outlives a call that fails.
            held = batch.__dict__.setdefault("_samemap_held", [])
        message = Outgoing(carries=True, held=held)
        return rebuild_batch, (message, ticket, self.prepare, *batch.__reduce__())


@ByName
def rebuild_batch(
    message: Incoming,
    ticket: Ticket | None,
    prepare: Callable[[], None] | None,
    cls: Callable[..., Callable[[], list[Any]]],
    args: tuple[Any, ...],
) -> Batch | FailedBatch:
    """Undo `BatchReducer`: a batch, or one that raises what was noted."""
    error = message.close()
    if error is not None:
        return FailedBatch(error)
    return Batch(cls(*args), ticket, prepare)


class Batch:
    """joblib's batch in the worker: runs it and sends the results our way."""

    def __init__(
        self,
        batch: Callable[[], list[Any]],
        ticket: Ticket | None,
        prepare: Callable[[], None] | None,
    ) -> None:
        self.batch = batch
        self.ticket = ticket
        self.prepare = prepare

    def __call__(self) -> Results:
        if self.prepare is not None:
            self.prepare()
        return Results(self.batch(), self.ticket)


class FailedBatch:
    """A batch that could not be read. It fails as a task, where joblib looks."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def __call__(self) -> NoReturn:
        raise self.error


class Results(list[Any]):
    """The results of a batch on their way back."""

    def __init__(self, results: list[Any], ticket: Ticket | None) -> None:
        super().__init__(results)
        self.ticket = ticket

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return rebuild_results, (Outgoing(carries=True), self.ticket, list(self))


@ByName
def rebuild_results(
    message: Incoming, ticket: Ticket | None, results: list[Any]
) -> list[Any] | FailedResults:
    """Undo `Results` in the caller: the list, or what raises the noted error."""
    release(ticket)
    error = message.close()
    return results if error is None else FailedResults(error)


class FailedResults:
    """Results that could not be read: raises when the caller takes them."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def __iter__(self) -> Iterator[Any]:
        raise self.error


def reduce_failure(failure: Any) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """Reduce a task's exception as both pools send it: with its traceback's text."""
    return rebuild_failure, (Outgoing(carries=True), *failure.__reduce__())


@ByName
def rebuild_failure(
    message: Incoming, rebuild: Callable[..., BaseException], args: tuple[Any, ...]
) -> BaseException:
    """Undo `reduce_failure`: the exception, or what was noted in reading it."""
    error = message.close()
    failure = rebuild(*args)
    if error is None:
        return failure
    error.__cause__ = failure.__cause__  # the worker's traceback
    return error
