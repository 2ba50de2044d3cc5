"""Messages of engines: bytes with references, read by whoever the engine chooses.

A message outlives its arrays and may be read on another host, so a reference in it is a
path, and says where that path means what. What nobody can be sure to see goes by value.
"""

from __future__ import annotations

import copyreg
import io
import mmap
import os
import pickle
from collections.abc import Callable
from typing import Any, NamedTuple

import cloudpickle
import numpy as np

from . import _core, _sight
from ._errors import BackingNotFoundError, BackingReplacedError
from ._sight import Look, Place
from ._tables import Table, make_engine_table

Array = np.ndarray[Any, np.dtype[Any]]
Attach = tuple[int, bytes, bytes, bytes, int, int, int, int]

# Beyond it a reader would take no more than the name of a class along.
_PROTOCOL = 5

_MAIN = b"__main__"


class Readers:
    """Those who may read a message, as far as they are known.

    Parameters
    ----------
    places : iterable of Place or None
        None for one that can't read messages.
    too_long : callable, optional
        Called with each array that is a message of its own, and goes by reference.
    """

    def __init__(
        self, places: Any, too_long: Callable[[Array], None] | None = None
    ) -> None:
        self.places = frozenset(places)
        self.too_long = too_long
        mine = _sight.here()
        self.blind = any(
            place is None or place.version != mine.version for place in self.places
        )
        others = {place.token for place in self.places if place is not None}
        self.all_here = not self.blind and others <= {mine.token}
        self._seen: dict[str, bool] = {}
        # What somebody makes once for these readers.
        self.made: dict[Any, Any] = {}

    def see(self, path: str) -> bool:
        """Tell whether each of them sees the file that this process sees there."""
        if self.all_here or self.blind:
            return self.all_here
        seen = self._seen.get(path)
        if seen is None:
            mine = _sight.here()
            seen = all(
                place is not None and _sight.sees(mine, place, path)
                for place in self.places
            )
            if len(self._seen) > 10_000:
                self._seen.clear()
            self._seen[path] = seen
        return seen


class Message(NamedTuple):
    """What `read` takes.

    Parameters
    ----------
    token : bytes
        Of the sender's `Place`.
    elsewhere : bool
        What is needed to find the files on other hosts goes along.
    data : bytes
        A pickle.
    """

    token: bytes
    elsewhere: bool
    data: bytes


def write(
    obj: Any, table: Table, readers: Readers, held: list[Any] | None = None
) -> Message | None:
    """Pickle an object in which arrays on mapped memory go by reference.

    Parameters
    ----------
    obj : object
    table : dict
        `make_engine_table` of protocol 5, for messages that last.
    readers : Readers
    held : list, optional
        What memory without a path is kept by: as long as the message is of use.

    Returns
    -------
    Message or None
        None: nothing goes by reference, and the engine's own message serves.

    Raises
    ------
    BackingTruncatedError
        If the file of an array has become shorter than its map.
    Exception
        What pickling the object raises.
    """
    if readers.blind:
        return None
    here = _sight.here()
    backings: list[Any] = []
    entries = entries_for(table, readers, backings)
    # Buffers are left out of the first try: where nothing is found, they need not be
    # copied.
    buffers: list[Any] = []
    data = _dump(obj, entries, held, buffers)
    if not backings:
        return None
    if buffers:
        data = _dump(obj, entries, held, None)
    if readers.too_long is not None and isinstance(obj, np.ndarray):
        readers.too_long(obj)
    return Message(here.token, not readers.all_here, data)


def entries_for(table: Table, readers: Readers, backings: list[Any]) -> Table:
    """Return the table of one message for these readers.

    Parameters
    ----------
    backings : list
        Gets the mappings that the message refers to.
    """
    if not readers.all_here:
        return _Elsewhere(table, readers, backings).entries()

    def note(backing: Any) -> Any:
        backings.append(backing)
        return backing.__reduce__()

    return {**table, _core.Backing: note}


def _dump(
    obj: Any, table: Table, held: list[Any] | None, buffers: list[Any] | None
) -> bytes:
    """Pickle, with cloudpickle where the reader could not import what is named."""
    # What the user has registered wins, as it does in the engine's own message.
    entries = {**table, **copyreg.dispatch_table}
    callback = None if buffers is None else buffers.append
    message = _core.Outgoing(held)
    try:
        if not cloudpickle.list_registry_pickle_by_value():
            file = io.BytesIO()
            pickler = pickle.Pickler(file, _PROTOCOL, buffer_callback=callback)
            pickler.dispatch_table = entries
            try:
                pickler.dump(obj)
            except (pickle.PicklingError, AttributeError, TypeError):
                pass
            else:
                data = file.getvalue()
                if _MAIN not in data:
                    return data
            if buffers:
                buffers.clear()
        file = io.BytesIO()
        _CloudPickler(file, entries, callback).dump(obj)
        return file.getvalue()
    finally:
        message.close()


class _CloudPickler(cloudpickle.Pickler):  # type: ignore[misc]
    def __init__(self, file: Any, table: Table, callback: Any) -> None:
        # Looked up when the pickler is made, and never again.
        self.dispatch_table = {**cloudpickle.Pickler.dispatch_table, **table}
        super().__init__(file, _PROTOCOL, callback)


# ---- Readers on other hosts --------------------------------------------------


class _Elsewhere:
    """Reducers of one message some of whose readers are on other hosts."""

    def __init__(self, table: Table, readers: Readers, backings: list[Any]) -> None:
        self.table = table
        self.readers = readers
        self.backings = backings
        # Of the maps that arrays of the message lie on, by path and offset.
        self.looks: dict[tuple[bytes, int], tuple[mmap.mmap, dict[str, Any]]] = {}

    def entries(self) -> Table:
        return {
            **self.table,
            np.ndarray: self.reduce,
            np.memmap: self.reduce,
            _core.Backing: self.reduce_backing,
        }

    def reduce(self, array: Array) -> Any:
        told = _core.describe(array)
        owner = _find_mmap(array)
        if (
            told["reason"]
            or owner is None
            or told.get("route") != "path"
            or not self.readers.see(told["path"])
        ):
            return array.__reduce_ex__(_PROTOCOL)
        key = os.fsencode(told["path"]), told["map_offset"]
        if key not in self.looks:
            if told["sharing"] == "shared" and told["map_writable"]:
                # The reader asks the server: it has to have what was written here.
                owner.flush()
            self.looks[key] = owner, told
        return self.table[type(array)](array)

    def reduce_backing(self, backing: Any) -> Any:
        _, args = backing.__reduce__()
        path, offset, length = args[2], args[4], args[5]
        owner, told = self.looks[path, told_offset(self.looks, path, offset)]
        stat = os.stat(path)
        steady = not (told["sharing"] == "shared" and told["map_writable"])
        content = None
        if steady and not told["modified_nbytes"]:
            start = told["map_offset"]

            def read(at: int, nbytes: int) -> bytes:
                return owner[at - start : at - start + nbytes]

            content = _sight.digest(read, offset, min(length, len(owner)))
        look = Look(
            stat.st_size, stat.st_ino, stat.st_mtime_ns if steady else None, content
        )
        self.backings.append(backing)
        return attach_elsewhere, (_sight.here().token, tuple(look), args)


def told_offset(looks: Any, path: bytes, offset: int) -> int:
    """Return the offset under which the map of a backing was noted."""
    return offset if (path, offset) in looks else next(o for p, o in looks if p == path)


def _find_mmap(array: Array) -> mmap.mmap | None:
    owner: Any = array
    while owner is not None and not isinstance(owner, mmap.mmap):
        if isinstance(owner, memoryview):
            owner = owner.obj
        else:
            owner = getattr(owner, "base", None)
    return owner


def attach_elsewhere(token: bytes, look: tuple[Any, ...], args: Attach) -> Any:
    """Attach a file that is another host's as well, after a look at it.

    Raises
    ------
    BackingError
        If it isn't the file that the sender has mapped.
    """
    if token == _sight.here().token:
        return _core.attach(*args)
    path, offset, length = args[2], args[4], args[5]
    _sight.check(os.fsdecode(path), Look(*look), offset, length)
    # Of the sender's process nothing is known here, not even that it isn't another's.
    return _core.attach(*args[:3], _identity_here(path), *args[4:7], os.getpid())


def _identity_here(path: bytes) -> bytes:
    """Return the identity of a file as this host tells it."""
    with open(path, "rb") as file:
        mapped = mmap.mmap(file.fileno(), 1, access=mmap.ACCESS_READ)
    array = np.frombuffer(mapped, "u1")
    reduce = make_engine_table(protocol=_PROTOCOL, counted=False)[np.ndarray]
    _, parts, *_ = reduce(array)
    backing = parts[0] if parts else None
    if not isinstance(backing, _core.Backing):
        raise BackingReplacedError(
            "the file behind an array can't be told from others on this host",
            os.fsdecode(path),
            "a file with an identity of its own",
            "one that can't be proven to be mapped",
        )
    identity: bytes = backing.__reduce__()[1][3]
    return identity


# ---- Reading -----------------------------------------------------------------


def read(token: bytes, elsewhere: bool, data: bytes) -> Any:
    """Load a `Message`.

    Raises
    ------
    BackingError
        If a file of it isn't to be seen here, or is another one.
    MessageVersionError
        If another version of samemap has written it.
    Exception
        What loading the objects raises.
    """
    if not elsewhere and not is_here(token):
        refuse(data)
    return pickle.loads(data)


def is_here(token: bytes) -> bool:
    """Tell whether the sender of a message sees the files that this process sees."""
    return token == _sight.here().token


def refuse(*pickles: bytes, buffers: Any = None) -> None:
    """Raise for the first file of a message whose paths mean nothing here.

    Parameters
    ----------
    *pickles : bytes
    buffers : iterable, optional
        What the only one of them has kept out of its bytes.

    Raises
    ------
    BackingNotFoundError
    """
    for data in pickles:
        _Unseen(io.BytesIO(data), buffers=buffers).load()


def _refuse(version: int, token: bytes, path: bytes, *_: Any) -> Any:
    raise BackingNotFoundError(
        "the sender of an array has its file on another host, or in another namespace",
        os.fsdecode(path),
        "a path that leads to the same file here",
        "a path that may lead to any file, which was not opened",
    )


class _Unseen(pickle.Unpickler):
    """Reads up to the first file, and tells its path."""

    def find_class(self, module: str, name: str) -> Any:
        found: Callable[..., Any] = super().find_class(module, name)
        return _refuse if found is _core.attach else found


def place_from(parts: Any) -> Place:
    """Make a `Place` of the plain tuples that an engine has carried."""
    token, version, mounts = parts
    return Place(token, version, tuple(_sight.Mount(*mount) for mount in mounts))


def place_parts(place: Place) -> tuple[bytes, int, tuple[tuple[str, ...], ...]]:
    """Undo `place_from`, for readers that may lack this module."""
    return place.token, place.version, tuple(tuple(mount) for mount in place.mounts)
