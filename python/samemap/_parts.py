"""Batches whose tasks are parts, each a pickle of its own, and what parts share.

See `_envelope` for when that is so.
"""

from __future__ import annotations

import io
import pickle
import types
from collections.abc import Callable
from typing import Any

import numpy as np

from ._core import Outgoing, pending_call

Task = tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]

# A task, and the numbers of the shared arrays that it uses.
Part = tuple[bytes, tuple[int, ...]]

_part_picklers: dict[Any, Any] = {}


def with_persistent_id(cls: Any) -> Any:
    """Make a class of picklers that ask their attribute `get_id` for numbers.

    It has to be a class: picklers look for the method when they are made.
    """

    if cls in _part_picklers:
        return _part_picklers[cls]

    class PartPickler(cls):  # type: ignore[misc]
        get_id: Callable[[Any], int | None]

        def persistent_id(self, obj: Any) -> int | None:
            return self.get_id(obj)

    _part_picklers[cls] = PartPickler
    return PartPickler


class Common:
    """What several parts of a batch lead to, which is written once.

    It goes before the parts, which refer to it by number. Argument arrays are each
    task's own, so what leads to one is in the part; all else is one object for the
    batch, as in a stock message. That is found out while the parts are written: where
    a second part comes to an object, that and the parts have to be written again.

    Parameters
    ----------
    message : Outgoing
    new_pickler : callable
        Returns a pickler and its file; the pickler asks the function that it is given
        for the numbers of objects.
    """

    def __init__(self, message: Outgoing, new_pickler: Callable[..., Any]) -> None:
        self.message = message
        self.new_pickler = new_pickler
        self.pickler, self.file = new_pickler(self._note)
        # cloudpickle writes functions and classes of the main program in full.
        self._by_value = hasattr(self.pickler, "reducer_override")
        self.objects: list[Any] = []
        # The arrays that are each task's own: their numbers are -1, -2, ...
        self.arrays: list[Any] = []
        # What is to be written before the parts: some part has it in full.
        self.found: list[Any] = []
        # The arrays that the part has used.
        self.used: dict[int, None] = {}
        self._numbers: dict[int, int] = {}
        # What `pickler` has come to, by identity, and what is in no other part.
        self._noted: dict[int, Any] = {}
        self._seen: dict[int, tuple[Any, int]] = {}
        self._is_common: dict[int, bool] = {}
        self._part = 0

    def add(self, obj: Any) -> int:
        """Write an object that parts refer to, and return its number."""
        self._numbers[id(obj)] = number = len(self.objects)
        self.objects.append(obj)
        self.pickler.dump(obj)
        return number

    def begin(self, part: int) -> None:
        """Go on with this part."""
        self._part = part
        self.used = {}

    def _note(self, obj: Any) -> None:
        if not self._is_plain(obj):
            self._noted[id(obj)] = obj

    def get_id(self, obj: Any) -> int | None:
        """Return the number of what a part refers to, None for what is in it."""
        if self._is_plain(obj):
            return None
        key = id(obj)
        number = self._numbers.get(key)
        if number is not None and number >= 0:
            return number
        if isinstance(obj, np.ndarray) and self.message.is_argument(obj):
            if self.message.is_shared(obj):
                if number is None:
                    self.arrays.append(obj)
                    self._numbers[key] = number = -len(self.arrays)
                self.used[number] = None
            return number
        if key in self._noted:
            # The pickler remembers it: that costs a reference.
            return self.add(obj)
        _, part = self._seen.setdefault(key, (obj, self._part))
        if part == self._part or not self._may_be_common(obj):
            return None
        # What this attempt writes is not used.
        return 0

    def _may_be_common(self, obj: Any) -> bool:
        known = self._is_common.get(id(obj))
        if known is None:
            pickler, _ = self.new_pickler(self._refuse_argument)
            try:
                pickler.dump(obj)
            except _LeadsToArgument:
                known = False
            else:
                known = True
                self.found.append(obj)
            self._is_common[id(obj)] = known
        return known

    def _refuse_argument(self, obj: Any) -> int | None:
        if not isinstance(obj, np.ndarray):
            return None
        if self.message.is_argument(obj):
            raise _LeadsToArgument
        whole = type(obj) in (np.ndarray, np.memmap) and not obj.dtype.hasobject
        return 0 if whole else None

    def _is_plain(self, obj: Any) -> bool:
        cls = type(obj)
        if cls in _NUMBERS or isinstance(obj, (np.generic, np.dtype)):
            return True
        if cls in _IMMUTABLE:
            return len(obj) < _SMALL and (cls is not tuple or not obj)
        if isinstance(obj, _NAMED):
            in_full = "<" in obj.__qualname__ or obj.__module__ == "__main__"
            return not (self._by_value and in_full)
        return False


class _LeadsToArgument(Exception):
    pass


# Not worth a number: nobody can tell two of them apart, or they go as a name.
_NUMBERS = frozenset([type(None), bool, int, float, complex])
_IMMUTABLE = (tuple, str, bytes)
_NAMED = (type, types.FunctionType, types.BuiltinFunctionType)
_SMALL = 256


class Shared:
    """What the parts of a batch share; an object, so that nobody looks into it."""

    def __init__(self, objects: list[Any]) -> None:
        self.objects = objects


def pend_part(part: Part, shared: Shared, arrays: list[Any]) -> Any:
    data, used = part
    return pending_call(load_part, data, shared, {n: arrays[-1 - n] for n in used})


class _PartUnpickler(pickle.Unpickler):
    # Not a class for each part: to make one takes as long as to load a part.
    shared: Shared
    arrays: dict[int, Any]

    def persistent_load(self, number: int) -> Any:
        return self.shared.objects[number] if number >= 0 else self.arrays[number]


def load_part(data: bytes, shared: Shared, arrays: dict[int, Any]) -> Task:
    """Load one task; `arrays` are its own of those that it shares with others."""
    unpickler = _PartUnpickler(io.BytesIO(data))
    unpickler.shared, unpickler.arrays = shared, arrays
    task: Task = unpickler.load()
    return task


def run_part(task: Task) -> Any:
    """Run what `load_part` has loaded."""
    function, args, kwargs = task
    return function(*args, **kwargs)
