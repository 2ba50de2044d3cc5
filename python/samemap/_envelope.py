"""A message in an envelope: bytes that are loaded where an error can be raised.

An exception raised while a pool unpickles a message does not reach the caller:
multiprocessing waits for ever, loky reports a broken pool. So what may fail to load
travels as bytes, written by a pickler like the pool's own, and is read where the pool
expects errors: inside the task, or where the caller takes its results.

A batch of tasks is written in two parts by one pickler. First the objects that the
tasks hold, so that those are as in a stock message: each once, with all its paths; then
the tasks. Arrays that are met in the second part are only reached as arguments of
tasks, or by lists, tuples and dicts of them: they become each task's own (`_core.take`).
"""

from __future__ import annotations

import copyreg
import io
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np

from . import _subclasses
from ._core import Outgoing, is_mapped, is_own, pending_pickle, take

Task = tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]
Reduce = Callable[[Any], Any]
Table = dict[type, Reduce]


class Writer:
    """Writes messages with one dispatch table.

    Parameters
    ----------
    make_pickler : callable
        ``make_pickler(file, table)`` returns a pickler with the methods ``dump`` and
        ``register(type, reducer)``.
    table : dict
        Reducers by exact type.
    """

    def __init__(self, make_pickler: Callable[..., Any], table: Table) -> None:
        self.make_pickler = make_pickler
        self.table = table

    def _new_pickler(self, file: io.BytesIO) -> Any:
        missing = _subclasses.late(self.table)
        if missing:
            self.table = {**self.table, **missing}
        return self.make_pickler(file, self.table)

    def write(self, obj: Any, held: list[Any] | None = None) -> bytes:
        """Pickle an object that one reader gets as a whole.

        Parameters
        ----------
        obj : object
        held : list, optional
            Gets what must live until the message has been read.

        Returns
        -------
        bytes
            For `pickle.loads`.
        """
        file = io.BytesIO()
        message = Outgoing(held)
        try:
            self._new_pickler(file).dump(obj)
        finally:
            message.close()
        return file.getvalue()

    def write_tasks(
        self, tasks: list[Task], held: list[Any] | None = None
    ) -> tuple[int, int, bytes]:
        """Pickle a batch of tasks for `read_tasks`.

        Parameters
        ----------
        tasks : list of (function, args, kwargs)
        held
            As for `write`.

        Returns
        -------
        tuple
            The number of objects before the tasks, of arrays that each task makes
            its own, and the bytes.
        """
        file = io.BytesIO()
        message = Outgoing(held)
        pickles: list[bytes] = []
        try:
            pickler = self._new_pickler(file)
            objects, others = message.objects(tasks, self.table)
            for cls in {*others, *self.table}:
                if issubclass(cls, np.ndarray) and cls not in (np.ndarray, np.memmap):
                    pickler.register(cls, self._own(cls, held, pickles))
            for obj in objects:
                pickler.dump(obj)
            message.tasks()
            pickler.dump(tasks)
        finally:
            pending = message.close()
        return len(objects), pending + len(pickles), file.getvalue()

    def _own(self, cls: type, held: list[Any] | None, pickles: list[bytes]) -> Reduce:
        """Reducer of a subclass of ndarray in a batch of tasks.

        Where the task's own array needs pages or a copy of its own, it is a pickle in
        the pickle, which the task loads: nobody else knows how to copy such a class.
        `pickles` gets those.
        """
        reduce = self.table.get(cls) or copyreg.dispatch_table.get(cls)

        def reduce_own(array: Any) -> Any:
            own = is_own(array)
            if own == 2 or (own == 1 and _is_mapped(array)):
                pickles.append(self.write(array, held))
                return pending_pickle, (pickles[-1],)
            return reduce(array) if reduce is not None else array.__reduce_ex__(5)

        return reduce_own


def _is_mapped(array: Any) -> bool:
    """Tell whether some of the memory of an array belongs to a mapping."""
    mask = array.__dict__.get("_mask") if isinstance(array, np.ma.MaskedArray) else None
    return is_mapped(np.ndarray.view(array, np.ndarray)) or (
        isinstance(mask, np.ndarray) and is_mapped(mask)
    )


def read_tasks(count: int, pending: int, data: bytes) -> list[Task]:
    """Load what `Writer.write_tasks` returned.

    Raises
    ------
    Exception
        What the loading of an object raises.
    """
    unpickler = pickle.Unpickler(io.BytesIO(data))
    # The tasks refer to these by the unpickler's memo.
    for _ in range(count):
        unpickler.load()
    tasks: list[Task] = unpickler.load()
    return [(run_own, task, {}) for task in tasks] if pending else tasks


def run_own(
    function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    """Run a task with arguments that are its own; they live as long as it runs."""
    args, kwargs = take(args, kwargs)
    return function(*args, **kwargs)
