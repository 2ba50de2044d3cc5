"""Messages within Ray's: a pickle with references, beside the buffers of what goes by
value, which stay where Ray keeps them.

They are written while Ray pickles, by a pickler of Ray's own kind: so the references to
objects of Ray's that are in them are counted.
"""

from __future__ import annotations

import copyreg
import io
import pickle
from typing import Any

from ray.cloudpickle import CloudPickler

from .. import _core, _remote, _sight
from .._tables import Table

PROTOCOL = 5

# Token of the sender's place, the pickle, its buffers.
Parts = tuple[Any, ...]


class _Pickler(CloudPickler):  # type: ignore[misc]
    def __init__(
        self, file: Any, table: Table, callback: Any, others: Table | None
    ) -> None:
        # Looked up when the pickler is made, and never again. What is registered with
        # Ray wins.
        self.dispatch_table = {
            **copyreg.dispatch_table,
            **table,
            **CloudPickler.dispatch_table.maps[0],
            **(others or {}),
        }
        super().__init__(file, PROTOCOL, callback)


def look(obj: Any, table: Table, others: Table) -> bool:
    """Tell whether something in an object would go by reference.

    Parameters
    ----------
    others : dict
        Reducers that are laid over all that is registered.
    """
    _, found = dump(obj, table, lambda buffer: None, others)
    return found


def dump(
    obj: Any, table: Table, callback: Any, others: Table | None = None
) -> tuple[bytes, bool]:
    """Pickle as Ray does, with another table.

    Parameters
    ----------
    obj : object
    table : dict
        `make_engine_table` for messages that last.
    callback : callable
        Gets the buffers.

    Returns
    -------
    bytes
        Without a reference, what Ray's own pickler would have written.
    bool
        There is a reference in it.

    Raises
    ------
    BackingTruncatedError
        If the file of an array has become shorter than its map.
    Exception
        What pickling the object raises.
    """
    backings: list[Any] = []

    def note(backing: Any) -> Any:
        backings.append(backing)
        return backing.__reduce__()

    file = io.BytesIO()
    message = _core.Outgoing()
    try:
        _Pickler(file, {**table, _core.Backing: note}, callback, others).dump(obj)
    finally:
        message.close()
    return file.getvalue(), bool(backings)


def write(obj: Any, table: Table) -> Parts:
    """Return what `read` takes; for `__reduce__`, while Ray pickles."""
    buffers: list[pickle.PickleBuffer] = []
    data, _ = dump(obj, table, buffers.append)
    return _sight.here().token, data, *buffers


def read(token: bytes, data: bytes, *buffers: Any) -> Any:
    """Load what `write` has made.

    Raises
    ------
    BackingError
        If a file of it isn't to be seen here, or is another one.
    MessageVersionError
        If another version of samemap has written it.
    Exception
        What loading the objects raises.
    """
    if not _remote.is_here(token):
        _remote.refuse(data, buffers=buffers)
    return pickle.loads(data, buffers=buffers)
