"""Ray: arrays on mapped memory go to workers by reference, when asked for.

joblib's Ray backend needs nothing but ``import samemap``; `install` is for remote
functions, actors, `put`, and results.
"""

# `_versions` looks at what is relied on, `_audience` knows who may read a message,
# `_messages` writes and reads them. `_context` lets Ray use them, `_backend` joblib's
# backend.

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from . import _versions

if TYPE_CHECKING:
    from .._explain import Explanation

__all__ = ["install", "installed", "uninstall"]

_lock = threading.Lock()
_installed: bool | None = None


def install(*, write_through: bool = False) -> None:
    """Let arrays on mapped memory go by reference in what this process sends by Ray.

    Arguments of remote functions and of methods of actors, what is `put`, all that sits
    in containers and objects there, and results of the workers that have got such an
    argument. Call it in the driver, before or after `ray.init`: workers do as their
    driver says.

    What a task gets is its own: neither the file nor the caller nor another task sees
    what it writes. But a reference is no snapshot: what the file holds when the
    array is read is what the task sees.

    Each node is asked once where it is. Unless all of them see the files of this
    process and have samemap, everything goes by value, as without this function.

    Parameters
    ----------
    write_through : bool
        Let tasks write to the file, wherever the map may be written to.

    Raises
    ------
    UnsupportedEngineError
        If Ray is missing, or its internals are not as expected; it is then untouched.

    See Also
    --------
    uninstall : Undo it.
    samemap.explain : Tells with ``engine="ray"`` how an array would travel.

    Notes
    -----
    An array that can't be opened where it arrives is the error of the task, or of
    `ray.get`: a `BackingError` of the type that says why, which is a `RayTaskError` as
    well.
    """
    global _installed
    _versions.check()
    from . import _audience, _context

    with _lock:
        _context.put_in(bool(write_through))
        _installed = bool(write_through)
    _audience.is_all_here()


def uninstall() -> None:
    """Give back Ray's own functions, here and in the workers that send results.

    Harmless when they are in force. Tasks that were sent go on.
    """
    global _installed
    with _lock:
        if _installed is None:
            return
        _installed = None
        from . import _context

        _context.take_out()


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
    """Do the work of `samemap.explain` with ``engine="ray"``."""
    _versions.check()
    from . import _explain

    return _explain.explain(array)


# ---- What messages name ------------------------------------------------------


def _open(*message: Any) -> Any:
    from . import _context

    return _context.open_message(*message)


def _receive(*message: Any) -> Any:
    from . import _backend

    return _backend.receive(*message)


def _probe() -> Any:
    from .. import _remote, _sight

    return _remote.place_parts(_sight.here())
