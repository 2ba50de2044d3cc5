"""Batches of tasks and of results: one message each, errors and holds included.

joblib hands a worker a ``BatchedCalls``, and gets back the list of results. Both
are reduced here, so that every message begins with an ``Outgoing`` (its reader
then notes errors instead of raising them where nobody would see them) and ends
with a function of ours that looks at the notes.
"""

from __future__ import annotations

import functools
import itertools
import weakref
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

from ._core import Incoming, Outgoing
from ._tables import Options

Ticket = tuple[int, int]

_keepers: weakref.WeakValueDictionary[int, Keeper] = weakref.WeakValueDictionary()
_keeper_numbers = itertools.count(1)


class Keeper:
    """What the messages of one pool name, kept until their results are back.

    multiprocessing drops a task's arguments once they are pickled. The map could
    be closed then, and its descriptor, shared memory or inode be used again,
    before the worker opens it. A keeper lives as long as its pool.
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


def release(ticket: Ticket) -> None:
    """Let go what a keeper of this process held, if that still exists."""
    number, count = ticket
    keeper = _keepers.get(number)
    if keeper is not None:
        keeper.release(count)


class BatchReducer:
    """Reducer of ``BatchedCalls``, for the forward dispatch table of one pool.

    It is pickled into workers with the rest of the table, where it reduces
    nothing: the keeper stays behind.

    Parameters
    ----------
    options : Options
    adopt : callable
        Called with `options` in the worker, before the batch.
    """

    def __init__(self, options: Options, adopt: Callable[[Options], None]) -> None:
        self.options = options
        self.adopt = adopt
        self.keeper = Keeper()

    def __reduce__(self) -> tuple[type[BatchReducer], tuple[Any, ...]]:
        return BatchReducer, (self.options, self.adopt)

    def __call__(self, batch: Any) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        ticket, held = self.keeper.hold()
        message = Outgoing(carries=True, held=held)
        return rebuild_batch, (
            message,
            ticket,
            self.adopt,
            tuple(self.options),
            *batch.__reduce__(),
        )


def rebuild_batch(
    message: Incoming,
    ticket: Ticket,
    adopt: Callable[[Options], None],
    options: tuple[Any, ...],
    cls: Callable[..., Callable[[], list[Any]]],
    args: tuple[Any, ...],
) -> Batch | FailedBatch:
    """Undo `BatchReducer`: a batch, or one that raises what was noted."""
    error = message.close()
    if error is not None:
        return FailedBatch(error)
    return Batch(cls(*args), ticket, functools.partial(adopt, Options(*options)))


class Batch:
    """joblib's batch in the worker: runs it and sends the results our way."""

    def __init__(
        self,
        batch: Callable[[], list[Any]],
        ticket: Ticket,
        prepare: Callable[[], None],
    ) -> None:
        self.batch = batch
        self.ticket = ticket
        self.prepare = prepare

    def __call__(self) -> Results:
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

    def __init__(self, results: list[Any], ticket: Ticket) -> None:
        super().__init__(results)
        self.ticket = ticket

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return rebuild_results, (Outgoing(carries=True), self.ticket, list(self))


def rebuild_results(
    message: Incoming, ticket: Ticket, results: list[Any]
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
