"""Ray's serialization, for the messages of this process alone.

Ray writes an object by msgpack, and by a pickle what that doesn't know. If something in
that pickle goes by reference, the object is written anew, as a whole: where it
can't be loaded, its place is taken by the error that Ray has for a task that failed,
which it raises wherever the object is wanted. An error raised by the loading itself
would lose its type.

Only what Ray writes to its object store, or into the message of a task, comes this
way: functions with their closures, and pickles that go to files, don't.
"""

from __future__ import annotations

import pickle
import traceback
from collections.abc import Callable
from typing import Any

import numpy as np
from ray._private.serialization import SerializationContext
from ray._raylet import Pickle5SerializedObject, Pickle5Writer
from ray.exceptions import RayTaskError

from .. import _remote, _sight
from .._remote import Readers
from .._shared import zeros
from .._tables import Table, make_engine_table
from . import _audience, _messages

# What a driver's switch says to its workers, in memory that they share.
_OFF, _ON, _WRITE_THROUGH = range(3)

_stock: dict[str, Any] = {}


class _Switch:
    """Tells the workers that have met this process how to send results."""

    def __init__(self) -> None:
        self.memory = zeros(1, np.uint8)
        self._held: list[Any] = []
        table = make_engine_table(protocol=_messages.PROTOCOL, counted=False)
        message = _remote.write(
            self.memory, table, Readers([_sight.here()]), self._held
        )
        # Where there is no such memory, results go by value.
        self.data = b"" if message is None else message.data


# In a driver.
_switch: _Switch | None = None

# In a worker: the message of the last switch that it was told of, and its memory.
_told: tuple[bytes, Any] | None = None


class _Found(Exception):
    """Something in an object goes by reference."""


class _Whole:
    """Is pickled as a message that loads as the object, or as an error of Ray's."""

    def __init__(self, obj: Any, table: Table) -> None:
        self._obj = obj
        self._table = table

    def __reduce__(self) -> Any:
        from . import _open

        switch = _switch
        data = b"" if switch is None else switch.data
        return _open, (data, *_messages.write(self._obj, self._table))


def open_message(switch: bytes, *parts: Any) -> Any:
    """Load an object, or make the error that Ray raises where it is wanted."""
    try:
        if switch and _audience.mode() == "worker":
            _hear(switch)
        return _messages.read(*parts)
    except Exception as error:
        text = traceback.format_exc()
        return RayTaskError("samemap", text, error.with_traceback(None))


def _hear(switch: bytes) -> None:
    """In a worker: send results as the driver says."""
    global _told
    if _told is None or _told[0] != switch:
        _told = switch, pickle.loads(switch)
        _replace()


def _table() -> Table | None:
    """Return how arrays go in a message of this process; None: by value.

    A worker does as its driver says, whatever it has installed itself: of that process
    it knows by its messages alone.
    """
    switch, told = _switch, _told
    backward = _audience.mode() == "worker"
    if backward:
        memory = None if told is None else told[1]
    else:
        memory = None if switch is None else switch.memory
    if memory is None:
        return None
    state = int(memory[0])
    if state == _OFF or not _audience.is_all_here():
        return None
    return make_engine_table(
        protocol=_messages.PROTOCOL,
        backward=backward,
        write_through=state == _WRITE_THROUGH,
    )


# ---- What is replaced --------------------------------------------------------


def _make_to_msgpack(stock: Callable[..., Any]) -> Callable[..., Any]:
    def _serialize_to_msgpack(self: Any, value: Any) -> Any:
        try:
            return stock(self, value)
        except _Found as found:
            (table,) = found.args
        return stock(self, _Whole(value, table))

    return _serialize_to_msgpack


def _make_to_pickle5(stock: Callable[..., Any]) -> Callable[..., Any]:
    def _serialize_to_pickle5(self: Any, metadata: Any, value: Any) -> Any:
        whole = len(value) == 1 and type(value[0]) is _Whole
        table = None if whole else _table()
        if table is None:
            return stock(self, metadata, value)
        writer = Pickle5Writer()
        try:
            self.set_in_band_serialization()
            data, found = _messages.dump(value, table, writer.buffer_callback)
        except BaseException:
            self.get_and_clear_contained_object_refs()
            raise
        finally:
            self.set_out_of_band_serialization()
        refs = self.get_and_clear_contained_object_refs()
        if found:
            raise _Found(table)
        return Pickle5SerializedObject(metadata, data, writer, refs)

    return _serialize_to_pickle5


_REPLACED = {
    "_serialize_to_msgpack": _make_to_msgpack,
    "_serialize_to_pickle5": _make_to_pickle5,
}


def _replace() -> None:
    if _stock:
        return
    for name, make in _REPLACED.items():
        _stock[name] = SerializationContext.__dict__[name]
        setattr(SerializationContext, name, make(_stock[name]))


def put_in(write_through: bool) -> None:
    """Let objects of this process go by reference, and results of its workers."""
    global _switch
    if _switch is None:
        _switch = _Switch()
    _switch.memory[0] = _WRITE_THROUGH if write_through else _ON
    _replace()


def take_out() -> None:
    """Give back Ray's own functions, and tell the workers."""
    global _switch
    if _switch is not None:
        _switch.memory[0] = _OFF
        _switch = None
    while _stock:
        name, stock = _stock.popitem()
        setattr(SerializationContext, name, stock)
