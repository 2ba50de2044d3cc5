"""A message in an envelope: bytes that are loaded where an error can be raised.

An exception raised while a pool unpickles a message does not reach the caller:
multiprocessing waits for ever, loky reports a broken pool. So what may fail to load
travels as bytes, written by a pickler like the pool's own, and is read where the pool
expects errors: inside the task, or where the caller takes its results.

A batch of tasks is written by one pickler. First come the objects that the tasks hold,
as in a stock message each once, with all its paths; then the tasks. Arrays that are met
only now are reached as arguments of tasks, or by lists, tuples and dicts of them, and
by no other way: they become each task's own (`_core.run`).

Where an object of one task leads to an array that is an argument too, the task has to
find one array on both ways, and it has to be its own: then each task is written as a
part by itself, and refers to what it shares with others by number.
"""

from __future__ import annotations

import copyreg
import functools
import io
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np

from . import _subclasses
from ._core import Outgoing, is_mapped, is_own, pending_call, run

Task = tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]
Reduce = Callable[[Any], Any]
Table = dict[type, Reduce]

# A task, and the numbers of the shared arrays that it uses.
Part = tuple[bytes, tuple[int, ...]]
# How many objects come before the tasks; how many arrays tasks make their own; the
# bytes; the parts, in which case the last object of the bytes is the shared arrays.
Tasks = tuple[int, int, bytes, list[Part] | None]

# Phases of an Outgoing (src/sender/outgoing.h).
_OBJECTS, _OWN_OBJECTS, _TASKS, _PART = 1, 2, 3, 4


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

    def write_tasks(self, tasks: list[Task], held: list[Any] | None = None) -> Tasks:
        """Pickle a batch of tasks for `read_tasks`.

        Parameters
        ----------
        tasks : list of (function, args, kwargs)
        held
            As for `write`.
        """
        message = Outgoing(held)
        try:
            file = io.BytesIO()
            shared, own, others = message.objects(tasks, self.table)
            pickler = self._new_batch_pickler(file, message, others, held)
            for obj in shared:
                pickler.dump(obj)
            message.enter(_OWN_OBJECTS)
            for obj in own:
                pickler.dump(obj)
            if message.is_entangled():
                return self._write_parts(message, tasks, shared, others, held)
            message.enter(_TASKS)
            pickler.dump(tasks)
            pending = message.close()
            return len(shared) + len(own), pending, file.getvalue(), None
        finally:
            message.close()

    def _write_parts(
        self,
        message: Outgoing,
        tasks: list[Task],
        shared: list[Any],
        others: list[type],
        held: list[Any] | None,
    ) -> Tasks:
        """Do the work of `write_tasks` with each task as a part of its own."""
        file = io.BytesIO()
        message.enter(_OBJECTS)
        pickler = self._new_batch_pickler(file, message, others, held)
        for obj in shared:
            pickler.dump(obj)
        message.enter(_PART)
        numbers = {id(obj): number for number, obj in enumerate(shared)}
        arrays: list[Any] = []
        parts = []
        for task in tasks:
            message.enter(_PART)
            used: dict[int, None] = {}

            def persistent_id(obj: Any, used: dict[int, None] = used) -> int | None:
                number = numbers.get(id(obj))
                if isinstance(obj, np.ndarray) and message.is_shared(obj):
                    if number is None:
                        arrays.append(obj)
                        numbers[id(obj)] = number = -len(arrays)
                    used[number] = None
                return number

            part = io.BytesIO()
            part_pickler = _with_persistent_id(type(pickler))(part, self.table)  # type: ignore[arg-type]
            part_pickler.get_id = persistent_id
            part_pickler.dump(task)
            parts.append((part.getvalue(), tuple(used)))
        message.enter(_TASKS)
        pickler.dump(arrays)
        return len(shared), len(parts), file.getvalue(), parts

    def _new_batch_pickler(
        self,
        file: io.BytesIO,
        message: Outgoing,
        others: list[type],
        held: list[Any] | None,
    ) -> Any:
        """Make a pickler that knows how tasks get subclasses of ndarray.

        Where the task's own array needs pages or a copy of its own, it is a pickle in
        the pickle, which the task loads: nobody else knows how to copy such a class.
        """
        pickler = self._new_pickler(file)

        def reduce_own(array: Any) -> Any:
            own = is_own(array)
            if own == 2 or (own == 1 and _is_mapped(array)):
                message.add_pending()
                return pending_call, (pickle.loads, self.write(array, held))
            reduce = self.table.get(type(array)) or copyreg.dispatch_table.get(
                type(array)
            )
            return reduce(array) if reduce is not None else array.__reduce_ex__(5)

        for cls in {*others, *self.table}:
            if issubclass(cls, np.ndarray) and cls not in (np.ndarray, np.memmap):
                pickler.register(cls, reduce_own)
        return pickler


@functools.cache
def _with_persistent_id(cls: Any) -> Any:
    """Make a class of picklers that ask their attribute `get_id` for numbers.

    It has to be a class: picklers look for the method when they are made.
    """

    class PartPickler(cls):  # type: ignore[misc]
        get_id: Callable[[Any], int | None]

        def persistent_id(self, obj: Any) -> int | None:
            return self.get_id(obj)

    return PartPickler


def _is_mapped(array: Any) -> bool:
    """Tell whether some of the memory of an array belongs to a mapping."""
    mask = array.__dict__.get("_mask") if isinstance(array, np.ma.MaskedArray) else None
    return is_mapped(np.ndarray.view(array, np.ndarray)) or (
        isinstance(mask, np.ndarray) and is_mapped(mask)
    )


def read_tasks(message: Tasks) -> list[Task]:
    """Load what `Writer.write_tasks` returned.

    Raises
    ------
    Exception
        What the loading of an object raises.
    """
    count, pending, data, parts = message
    unpickler = pickle.Unpickler(io.BytesIO(data))
    # What comes last refers to these by the unpickler's memo.
    objects = [unpickler.load() for _ in range(count)]
    last = unpickler.load()
    if parts is not None:
        shared = Shared(objects)
        return [
            (run, (run_part, (_pend_part(part, shared, last),), {}), {})
            for part in parts
        ]
    tasks: list[Task] = last
    return [(run, task, {}) for task in tasks] if pending else tasks


class Shared:
    """What the parts of a batch share; an object, so that nobody looks into it."""

    def __init__(self, objects: list[Any]) -> None:
        self.objects = objects


def _pend_part(part: Part, shared: Shared, arrays: list[Any]) -> Any:
    data, used = part
    return pending_call(load_part, data, shared, {n: arrays[-1 - n] for n in used})


def load_part(data: bytes, shared: Shared, arrays: dict[int, Any]) -> Task:
    """Load one task; `arrays` are its own of those that it shares with others."""

    class PartUnpickler(pickle.Unpickler):
        def persistent_load(self, number: int) -> Any:
            return shared.objects[number] if number >= 0 else arrays[number]

    task: Task = PartUnpickler(io.BytesIO(data)).load()
    return task


def run_part(task: Task) -> Any:
    """Run what `load_part` has loaded."""
    function, args, kwargs = task
    return function(*args, **kwargs)
