"""Where messages are read: in a worker's task, in a comm, in the client.

Imported where a message is evaluated (`_wire`) or a client asks (`_audience`).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

from distributed import Reschedule
from distributed.worker import thread_state

from .. import _remote, _sight
from .._envelope import read_tasks
from .._errors import BackingError, SamemapError
from .._remote import Message, Readers
from .._sight import Place
from .._tables import make_engine_table
from . import _memory
from ._plain import is_plain

# A worker that has come after a message was written may not see its files: so often it
# asks for another one, each time after a longer pause (0.05 s, doubled).
TRIES = 6
_PAUSE = 0.05

# By key of the task.
_tries: dict[Any, int] = {}
_tries_lock = threading.Lock()


def load(token: bytes, elsewhere: bool, data: bytes) -> Any:
    """Load a message in the thread of its task.

    Raises
    ------
    distributed.Reschedule
        If the file isn't to be seen here, which another worker may do.
    BackingError, MessageVersionError
        As `_remote.read`.
    """
    return _try(token, lambda: _remote.read(token, elsewhere, data))


def _try(token: bytes, read: Callable[[], Any]) -> Any:
    try:
        result = read()
    except BackingError as error:
        if not _remote.is_here(token):
            _ask_for_another(error)
        raise
    if _tries:
        _tries.pop(_key(), None)
    return result


def _key() -> Any:
    return getattr(thread_state, "key", None)


def _ask_for_another(error: BackingError) -> None:
    """Raise Reschedule, a bounded number of times for a task.

    Who sent the task asked every worker that it knew: so this one has come later.
    """
    key = _key()
    if key is None:
        return
    with _tries_lock:
        count = _tries.get(key, 0)
        if count >= TRIES:
            del _tries[key]
            return
        if len(_tries) > 10_000:
            _tries.clear()
        _tries[key] = count + 1
    time.sleep(_PAUSE * 2**count)
    raise Reschedule from error


# ---- In a comm ---------------------------------------------------------------


def receive(token: bytes, elsewhere: bool, data: bytes) -> Any:
    """Load a message where nothing may raise: between workers, or to a client."""
    try:
        return _remote.read(token, elsewhere, data)
    except Exception as error:
        return Unreadable(error, Message(token, elsewhere, data))


def _raise(self: Unreadable, *_: Any, **__: Any) -> NoReturn:
    self.fail()


class Unreadable:
    """Stands for an object that could not be loaded; raises when it is used.

    Sent on, it is the same message, which another process may be able to read.
    """

    def __init__(self, error: Exception, message: Message) -> None:
        self._error = error
        self._message = message

    def fail(self) -> NoReturn:
        """Raise what loading has raised."""
        if isinstance(self._error, BackingError) and not _remote.is_here(
            self._message.token
        ):
            _ask_for_another(self._error)
        raise self._error

    def __reduce__(self) -> Any:
        return receive, tuple(self._message)

    def __repr__(self) -> str:
        return f"<unreadable: {self._error}>"

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        self.fail()

    __array__ = __len__ = __iter__ = __getitem__ = __setitem__ = __call__ = _raise
    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = _raise
    __truediv__ = __rtruediv__ = __matmul__ = __rmatmul__ = __pow__ = _raise
    __neg__ = __abs__ = __float__ = __int__ = __bool__ = __contains__ = _raise
    __lt__ = __le__ = __gt__ = __ge__ = _raise


# ---- Who is there ------------------------------------------------------------

# The clients that have asked where this process is, by their id; where they are, by the
# token of that.
_met: dict[str, Any] = {}
_clients: dict[bytes, Place] = {}


def meet(
    client: str, parts: Any, dask_worker: Any = None
) -> tuple[Any, dict[str, Any], int | None]:
    """In a worker: tell a client where this process is, and which clients it has met.

    Parameters
    ----------
    client : str
        Id of the client.
    parts : tuple
        Its `Place`, see `_remote.place_parts`.
    dask_worker : distributed.Worker
        Given by distributed.

    Returns
    -------
    tuple
        The same of this process.
    dict
        And of the clients that it has met, by their id.
    int or None
        Bytes that it may have resident, see `_memory`.
    """
    _met[client] = parts
    _clients[parts[0]] = _remote.place_from(parts)
    room = _memory.find_room(dask_worker)
    return _remote.place_parts(_sight.here()), dict(_met), room


def hear(places: tuple[Any, ...], write_through: bool) -> None:
    """In a worker: let results go by reference, as all of these may read them.

    Parameters
    ----------
    places : tuple
        Parts of the `Place` of each worker and client; None for one that is blind.
    write_through : bool
    """
    from . import _comm

    readers = Readers(p if p is None else _remote.place_from(p) for p in places)
    _comm.engage_worker(readers, write_through)


def forget() -> None:
    """In a worker: go on as without samemap."""
    from . import _comm

    _comm.disengage()


# ---- joblib's batches --------------------------------------------------------

_values = threading.local()


@contextmanager
def _with_values(values: Any) -> Iterator[None]:
    before = getattr(_values, "now", None)
    _values.now = values
    try:
        yield
    finally:
        _values.now = before


def take(number: int) -> Any:
    """Return the value of a future, while a batch with futures is read or run."""
    return _values.now[number]


class Slot:
    """Stands for a future in a message, and is loaded as its value."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __reduce__(self) -> Any:
        return take, (self.number,)


class Result:
    """A result of a task of joblib's on its way back, with what goes by reference."""

    def __init__(self, message: Message) -> None:
        self.message = message

    def __reduce__(self) -> Any:
        return Result, (tuple(self.message),)

    def open(self) -> Any:
        """Return the result, in the client.

        Raises
        ------
        BackingError
            If the file of an array isn't there any more.
        """
        return _remote.read(*self.message)


def load_batch(parts: tuple[Any, ...], values: Any) -> list[Any]:
    """Load the tasks of a batch.

    Parameters
    ----------
    parts : tuple
        Token and "elsewhere" as in `Message`; the bytes, the count of objects, that of
        pending arrays and the parts, as `Writer.write_tasks` returns them; whether
        writable maps are shared.
    values : sequence
        Of the futures in it.
    """
    token, elsewhere, data, count, pending, rest, write_through = parts

    def read() -> list[Any]:
        with _with_values(values):
            if not elsewhere and not _remote.is_here(token):
                _remote.refuse(data, *(part[0] for part in rest or ()))
            tasks = read_tasks((count, pending, data, rest))
        return [(_run, (task, values, token, write_through), {}) for task in tasks]

    tasks: list[Any] = _try(token, read)
    return tasks


def _run(task: Any, values: Any, token: bytes, write_through: bool) -> Any:
    """Run one task of a batch."""
    function, args, kwargs = task
    with _with_values(values):
        result = function(*args, **kwargs)
    place = _clients.get(token)
    if place is None or is_plain(result):
        return result
    table = make_engine_table(protocol=5, backward=True, write_through=write_through)
    try:
        message = _remote.write(result, table, Readers([place]))
    except SamemapError:
        raise
    except Exception:
        # dask is going to say so.
        return result
    return result if message is None else Result(message)
