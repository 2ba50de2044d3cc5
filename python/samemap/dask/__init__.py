"""dask: arrays on mapped memory go to workers by reference, when asked for.

joblib's dask backend needs nothing but ``import samemap``; `install` is for `submit`,
`map`, `scatter`, results, and graphs of arrays and delayed objects.
"""

# `_versions` looks at what is relied on, `_audience` knows who is there, `_graph` and
# `_comm` let arrays go by reference in graphs and in messages, `_backend` does in
# joblib's backend. `_wire` is what is sent, `_arrival` what a worker or a client does
# with it.

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from . import _versions

if TYPE_CHECKING:
    from distributed import Client

    from .._explain import Explanation

__all__ = ["install", "installed", "uninstall"]

_lock = threading.Lock()
_installed: bool | None = None


def install(client: Client | None = None, *, write_through: bool = False) -> None:
    """Let arrays on mapped memory go by reference in all clients of this process.

    What a task gets is its own, as a copy would be: neither the file nor the caller nor
    another task sees what it writes. But a reference is no snapshot: what the
    file holds when the array is read is what the task sees.

    Workers are asked where they are, and may lack samemap, or not see the file: then
    everything goes by value, as without this function. Nothing is asked of a scheduler
    but who is there.

    Parameters
    ----------
    client : distributed.Client, optional
        Whose workers are asked now; by default those of the default client, if there is
        one. Other clients ask when they first send something.
    write_through : bool
        Let tasks write to the file, wherever the map may be written to.

    Raises
    ------
    UnsupportedEngineError
        If dask or distributed is missing, or its internals are not as expected; it is
        then untouched.
    """
    global _installed
    _versions.check()
    from distributed.client import _get_global_client

    from . import _arrays, _audience, _comm, _graph

    with _lock:
        _graph.put_in(write_through)
        _comm.engage_client(write_through)
        _arrays.put_in()
        _installed = write_through
    if client is None:
        client = _get_global_client()
    if client is not None:
        audience = _audience.of(client)
        audience.results = write_through
        audience.ask()


def uninstall() -> None:
    """Give back distributed's own functions, here and in the workers that were asked.

    Harmless when they are in force. Tasks that were sent go on.
    """
    global _installed
    with _lock:
        if _installed is None:
            return
        _installed = None
        from . import _arrays, _audience, _comm, _graph

        _graph.take_out()
        _comm.disengage()
        _arrays.take_out()
        for audience in _audience.known():
            audience.dismiss()


def installed() -> bool:
    """Tell whether `install` is in force.

    Returns
    -------
    bool
        True from `install` on, until `uninstall`.
    """
    return _installed is not None


def writes_through() -> bool:
    """Tell whether tasks write to the files of writable maps.

    Returns
    -------
    bool
    """
    return bool(_installed)


def explain_array(array: Any) -> Explanation:
    """Do the work of `samemap.explain` with ``engine="dask"``."""
    _versions.check()
    from . import _explain

    return _explain.explain(array)


# ---- What messages name ------------------------------------------------------


def _load(*message: Any) -> Any:
    from . import _arrival

    return _arrival.load(*message)


def _batch(parts: Any, values: Any = ()) -> list[Any]:
    from . import _arrival

    return _arrival.load_batch(parts, values)


def _receive(*message: Any) -> Any:
    from . import _arrival

    return _arrival.receive(*message)
