"""Writes that are lost: counted where tasks run, told where they were sent from.

A task may write into an array that came in a memory file, as it could into a copy; its
caller never sees that. Where the caller's array was meant to be filled, nothing but
this tells of it.
"""

from __future__ import annotations

import os
import sys
import threading
import warnings

from ._errors import LostWritesWarning

# Arrays, and bytes of their memory.
Lost = tuple[int, int]

_lock = threading.Lock()
_total: Lost = (0, 0)
_untold = 0


def add(lost: Lost) -> None:
    """In the caller: results have brought the news. Any thread."""
    global _total, _untold
    with _lock:
        _total = _total[0] + lost[0], _total[1] + lost[1]
        _untold += lost[0]


def total() -> Lost:
    """What this process was told of so far."""
    return _total


def warn() -> None:
    """At the end of a call, in its thread: warn of what it has lost, once.

    Warns
    -----
    LostWritesWarning
        Attributed to the line that called `Parallel`.
    """
    global _untold
    with _lock:
        arrays, _untold = _untold, 0
    if arrays:
        warnings.warn(
            f"tasks have written to {arrays} of their argument arrays, which are each "
            "task's own: neither the caller nor another task sees that. For an array "
            "that all workers are to fill, use samemap.empty, zeros or share.",
            LostWritesWarning,
            stacklevel=_user_level(),
        )


def _user_level() -> int:
    """Count the frames up to that of the user, as `warnings.warn` does for `warn`."""
    level, frame = 1, sys._getframe(1)
    while frame.f_back is not None and _is_ours(frame.f_globals.get("__name__", "")):
        level, frame = level + 1, frame.f_back
    return level


def _is_ours(module: str) -> bool:
    return module.partition(".")[0] in ("joblib", "samemap")


def _after_fork() -> None:
    """What was told to the parent isn't ours; another thread may have the lock."""
    global _lock, _total, _untold
    _lock = threading.Lock()
    _total, _untold = (0, 0), 0


os.register_at_fork(after_in_child=_after_fork)
