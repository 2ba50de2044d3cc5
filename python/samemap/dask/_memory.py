"""Memory limits of workers: dask counts the pages of mapped files that were read.

A worker that reads through a map larger than its limit is paused, or killed by its
nanny, though the system could drop those pages at any time. Which setting decides is
the user's to know: nothing here changes it.
"""

from __future__ import annotations

import warnings
from typing import Any

import dask
import numpy as np

from .. import _core

# Fractions of the limit; False: never.
_SETTINGS = ("distributed.worker.memory.pause", "distributed.worker.memory.terminate")

_told: set[str] = set()


def find_room(worker: Any) -> int | None:
    """Return how many bytes a worker may have resident before dask acts; None: all."""
    limit = getattr(getattr(worker, "memory_manager", None), "memory_limit", None)
    fractions = [dask.config.get(name, False) for name in _SETTINGS]
    acting = [float(fraction) for fraction in fractions if fraction]
    if not limit or not acting:
        return None
    return int(limit * min(acting))


class Watch:
    """Warns of arrays that are larger than the room of the smallest worker.

    Parameters
    ----------
    room : int
        Bytes.
    """

    def __init__(self, room: int) -> None:
        self.room = room

    def __call__(self, array: np.ndarray[Any, np.dtype[Any]]) -> None:
        if array.nbytes <= self.room:
            return
        path = _core.describe(array).get("path", "")
        if path in _told:
            return
        _told.add(path)
        warnings.warn(
            f"an array of {array.nbytes:,} bytes on {path!r} goes to workers that "
            f"dask lets have {self.room:,} bytes resident: it counts the pages of "
            "files that were read, and pauses or kills a worker that reads more. Give "
            f"workers more memory_limit, or set {' and '.join(_SETTINGS)} to False",
            RuntimeWarning,
            stacklevel=2,
        )
