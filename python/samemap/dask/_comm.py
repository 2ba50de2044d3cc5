"""Messages between clients and workers: scattered data, results, dependencies.

distributed serializes these where it writes to a comm, and loads them where it reads
from one: neither may raise. What is spilled to a disk passes the same functions, but
without a recipient: it goes by value.
"""

from __future__ import annotations

import importlib
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
from dask.sizeof import sizeof

from .. import _remote, _sight
from .._errors import SamemapError
from .._remote import Message, Readers
from .._subclasses import is_on_map
from .._tables import Table, make_engine_table
from . import _audience, _wire

# Its package has a function of the same name.
protocol: Any = importlib.import_module("distributed.protocol.serialize")

# What the scheduler and the worker's memory manager count for an array on a map.
MAPPED_NBYTES = 256

# Of these nothing can lie on mapped memory.
_PLAIN = frozenset(
    [type(None), bool, int, float, complex, str, bytes, bytearray, np.float64, np.int64]
)

_ARRAYS = (np.ndarray, np.memmap, np.recarray, np.ma.MaskedArray)

# While ours are in force: what was there before, None for nothing.
_stock: dict[tuple[int, Any], Any] = {}
_stock_family: Any = None

# In a worker: who may read its results.
_worker: tuple[Readers, bool] | None = None

# In a client: whether writable maps are shared.
_client: bool | None = None


def _reading(context: Any) -> tuple[Readers, Table] | None:
    """Return who may read a message of this process, and how arrays go in it.

    None: nobody is to read it, or nobody knows.
    """
    recipient = (context or {}).get("recipient")
    if recipient is None:
        return None
    if _worker is not None:
        readers, write_through = _worker
        return readers, make_engine_table(
            protocol=5, backward=True, write_through=write_through
        )
    if _client is None:
        return None
    audience = _audience.of_scheduler(recipient.get("address"))
    if audience is None:
        # A worker that is written to directly.
        known = [a for a in _audience.known() if a.everyone is not None]
        audience = known[0] if len(known) == 1 else None
    if audience is None or audience.everyone is None:
        return None
    return audience.everyone, make_engine_table(protocol=5, write_through=_client)


def _write(obj: Any, context: Any) -> Message | None:
    """Write a message for a comm, or None: stock's serves."""
    found = _reading(context)
    if found is None or found[0].blind:
        return None
    readers, table = found
    try:
        return _remote.write(obj, table, readers)
    except SamemapError as error:
        # Stock would read the map, and crash where its file is too short.
        failed = pickle.dumps(_Failed(error.with_traceback(None)), 5)
        return Message(_sight.here().token, False, failed)
    except Exception:
        # Stock is going to say the same.
        return None


class _Failed:
    """Loads as an error that is raised."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def __reduce__(self) -> Any:
        return _fail, (self.error,)


def _fail(error: Exception) -> Any:
    raise error


def _make_serialize(stock: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap what `dask_serialize` has for a class of arrays."""

    def serialize_array(array: Any, context: Any = None) -> Any:
        if is_on_map(array) and context is not None:
            message = _write(array, context)
            if message is not None:
                if isinstance(array, np.ma.MaskedArray):
                    # Its reader takes frames apart: by the family of pickles.
                    raise NotImplementedError
                return {"pickle": True}, [_wire.frame(message)]
        try:
            return stock(array, context)
        except TypeError:
            return stock(array)

    return serialize_array


def _pickle_dumps(obj: Any, context: Any = None) -> Any:
    """Serialize what isn't an array, but may have some."""
    if type(obj) not in _PLAIN and context is not None:
        message = _write(obj, context)
        if message is not None:
            return {"serializer": "pickle", "writeable": ()}, [_wire.frame(message)]
    return protocol.pickle_dumps(obj, context)


def _make_sizeof(stock: Callable[[Any], int]) -> Callable[[Any], int]:
    """Wrap what `dask.sizeof` has for arrays: a map takes no memory of the process."""

    def sizeof_array(array: Any) -> int:
        return MAPPED_NBYTES if is_on_map(array) else stock(array)

    return sizeof_array


# ---- In and out --------------------------------------------------------------


def _put_in() -> None:
    global _stock_family
    if _stock:
        return
    for dispatch, make in (
        (protocol.dask_serialize, _make_serialize),
        (sizeof, _make_sizeof),
    ):
        for cls in _ARRAYS:
            dispatch.dispatch(cls)  # what is lazy is there now
        lookup = dispatch._lookup
        for cls in _ARRAYS:
            stock = dispatch.dispatch(cls)
            _stock[id(dispatch), cls] = dispatch, lookup.get(cls)
            lookup[cls] = make(stock)
        # The cache of classes that were asked for.
        for cls in [c for c in lookup if c not in _ARRAYS and _is_array_class(c)]:
            if lookup[cls] is _stock[id(dispatch), np.ndarray][1]:
                del lookup[cls]
    _stock_family = protocol.families["pickle"]
    protocol.families["pickle"] = (_pickle_dumps, _stock_family[1], True)


def _is_array_class(cls: Any) -> bool:
    return isinstance(cls, type) and issubclass(cls, np.ndarray)


def _take_out() -> None:
    ours = set()
    while _stock:
        (_, cls), (dispatch, stock) = _stock.popitem()
        ours.add(dispatch._lookup[cls])
        if stock is None:
            del dispatch._lookup[cls]
        else:
            dispatch._lookup[cls] = stock
        for other in [c for c, f in dispatch._lookup.items() if f in ours]:
            if (id(dispatch), other) not in _stock:
                del dispatch._lookup[other]
    if _stock_family is not None:
        protocol.families["pickle"] = _stock_family


def engage_worker(readers: Readers, write_through: bool) -> None:
    """In a worker: let its results go by reference to these readers."""
    global _worker
    _worker = readers, write_through
    _put_in()


def engage_client(write_through: bool) -> None:
    """In a client: let scattered data go by reference."""
    global _client
    _client = write_through
    _put_in()


def disengage() -> None:
    """Give distributed back its own functions."""
    global _worker, _client
    _worker = _client = None
    _take_out()
