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
part by itself, and refers to what it shares with others by number (`Common`).
"""

from __future__ import annotations

import copyreg
import io
import pickle
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from . import _subclasses
from ._core import Outgoing, count_pending, is_own, pending_call, run
from ._parts import Common, Part, Shared, Task, pend_part, run_part, with_persistent_id

Reduce = Callable[[Any], Any]
Table = dict[type, Reduce]

# Arguments of `_core.acknowledge`, for each memory file of a message.
Receipts = tuple[tuple[int, int, bytes], ...]

# How many objects come before the tasks; how many arrays tasks make their own; the
# bytes; the parts, in which case the last object of the bytes is the shared arrays.
Tasks = tuple[int, int, bytes, list[Part] | None]

# Phases of an Outgoing (src/sender/outgoing.h).
_OBJECTS, _OWN_OBJECTS, _TASKS, _PART = 1, 2, 3, 4


class Exports(NamedTuple):
    """Which arrays in ordinary memory go by memory files, and how.

    Parameters
    ----------
    min_nbytes : int
        Those of more bytes.
    find_folders : callable
        Returns two folders (bytes), as of now: where the user wants temporary files,
        None if they are in memory; and where those go that there is too little memory
        for, None if nowhere.
    count_readers : callable
        How many workers there may be. An array of which not all can write a copy
        arrives read-only.
    """

    min_nbytes: int
    find_folders: Callable[[], tuple[bytes | None, bytes | None]]
    count_readers: Callable[[], int]


class Writer:
    """Writes messages with one dispatch table.

    Parameters
    ----------
    pickler_class : callable
        Returns the class of picklers now: ``cls(file, table)`` has the methods
        ``dump``, ``clear_memo`` and ``register(type, reducer)``.
    table : dict
        Reducers by exact type.
    exports : Exports, optional
        Where the messages have a list of what they hold, large arrays in ordinary
        memory go so.
    """

    def __init__(
        self,
        pickler_class: Callable[[], Any],
        table: Table,
        exports: Exports | None = None,
    ) -> None:
        self.pickler_class = pickler_class
        self.table = table
        self.exports = exports
        self._renew()

    def __reduce__(self) -> tuple[type[Writer], tuple[Any, ...]]:
        return Writer, (self.pickler_class, self.table)

    def _renew(self) -> None:
        """Make what follows from `table`."""
        own = {cls: self._reduce_own for cls in self.table if _is_subclass(cls)}
        self._full_table = {**self.table, **own}
        # Picklers that nobody uses now, with their files.
        self._idle: list[tuple[Any, io.BytesIO]] = []

    def _new_message(self, held: list[Any] | None, since: int = 0) -> Outgoing:
        if self.exports is None:
            return Outgoing(held)
        min_nbytes, find_folders, count_readers = self.exports
        folder, spill = find_folders()
        readers = max(1, count_readers())
        return Outgoing(held, min_nbytes, folder, readers, since, spill)

    def _get_pickler(self) -> tuple[Any, io.BytesIO]:
        """Return a pickler and its empty file: making one takes 8 µs."""
        missing = _subclasses.late(self.table)
        if missing:
            self.table = {**self.table, **missing}
            self._renew()
        cls = self.pickler_class()
        try:
            pickler, file = self._idle.pop()
        except IndexError:
            pass
        else:
            if type(pickler) is cls:
                return pickler, file
        file = io.BytesIO()
        return cls(file, self._full_table), file

    def _put_pickler(self, pickler: Any, file: io.BytesIO) -> bytes:
        """Give back a pickler after it has done its work; return that."""
        data = file.getvalue()
        file.seek(0)
        file.truncate()
        pickler.clear_memo()
        # cloudpickle's memory of the modules of functions, by identity.
        getattr(pickler, "globals_ref", {}).clear()
        self._idle.append((pickler, file))
        return data

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
        message = self._new_message(held)
        try:
            pickler, file = self._get_pickler()
            pickler.dump(obj)
            return self._put_pickler(pickler, file)
        finally:
            message.close()

    def write_results(self, results: Any) -> tuple[bytes, Receipts]:
        """Pickle results for the caller: large arrays go by memory files.

        Returns
        -------
        bytes
            For `pickle.loads`.
        tuple
            A receipt for each file, which the caller acknowledges then.
        """
        message = Outgoing()
        try:
            message.results(results)
            pickler, file = self._get_pickler()
            pickler.dump(results)
            return self._put_pickler(pickler, file), message.receipts()
        except BaseException:
            message.discard()
            raise
        finally:
            message.close()

    def write_tasks(
        self, tasks: list[Task], held: list[Any] | None = None, since: int = 0
    ) -> Tasks:
        """Pickle a batch of tasks for `read_tasks`.

        Parameters
        ----------
        tasks : list of (function, args, kwargs)
        held
            As for `write`.
        since : int
            `_core.new_number()` when the batch was made, or 0: what was found out of
            arrays in memory after that holds for this message, too.
        """
        message = self._new_message(held, since)
        try:
            pickler, file = self._get_pickler()
            shared, own, others = message.objects(tasks, self.table)
            for cls in others:
                pickler.register(cls, self._reduce_own)
            for obj in shared:
                pickler.dump(obj)
            message.enter(_OWN_OBJECTS)
            for obj in own:
                pickler.dump(obj)
            if message.is_entangled():
                self._put_pickler(pickler, file)
                return self._write_parts(message, tasks, shared, others)
            message.enter(_TASKS)
            pickler.dump(tasks)
            pending = message.close()
            data = self._put_pickler(pickler, file)
            return len(shared) + len(own), pending, data, None
        finally:
            message.close()

    def _write_parts(
        self,
        message: Outgoing,
        tasks: list[Task],
        shared: list[Any],
        others: list[type],
    ) -> Tasks:
        """Do the work of `write_tasks` with each task as a part of its own."""
        common = Common(message, self._new_part_pickler)
        for cls in others:
            common.pickler.register(cls, self._reduce_own)
        message.enter(_OBJECTS)
        for obj in shared:
            common.add(obj)
        parts = self._write_each(message, tasks, common)
        if common.found:
            message.enter(_OBJECTS)
            for obj in common.found:
                common.add(obj)
            parts = self._write_each(message, tasks, common)
        message.enter(_TASKS)
        common.pickler.dump(common.arrays)
        return len(common.objects), len(parts), common.file.getvalue(), parts

    def _write_each(
        self, message: Outgoing, tasks: list[Task], common: Common
    ) -> list[Part]:
        parts = []
        for number, task in enumerate(tasks):
            message.enter(_PART)
            common.begin(number)
            pickler, file = self._new_part_pickler(common.get_id)
            pickler.dump(task)
            parts.append((file.getvalue(), tuple(common.used)))
        return parts

    def _new_part_pickler(
        self, get_id: Callable[[Any], int | None]
    ) -> tuple[Any, io.BytesIO]:
        file = io.BytesIO()
        pickler = with_persistent_id(self.pickler_class())(file, self._full_table)
        pickler.get_id = get_id
        return pickler, file

    def _reduce_own(self, array: Any) -> Any:
        """Reduce a subclass of ndarray, in a batch of tasks for each task.

        Where the task's own array needs pages or a copy of its own, it is a pickle in
        the pickle, which the task loads: nobody else knows how to copy such a class.
        """
        own = is_own(array)
        if own == 2 or (own == 1 and _subclasses.is_on_map(array)):
            return pending_call, (pickle.loads, self.write(array, count_pending()))
        reduce = self.table.get(type(array)) or copyreg.dispatch_table.get(type(array))
        return reduce(array) if reduce is not None else array.__reduce_ex__(5)


def _is_subclass(cls: type) -> bool:
    return issubclass(cls, np.ndarray) and cls not in (np.ndarray, np.memmap)


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
            (run, (run_part, (pend_part(part, shared, last),), {}), {})
            for part in parts
        ]
    tasks: list[Task] = last
    return [(run, task, {}) for task in tasks] if pending else tasks
