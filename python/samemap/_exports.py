"""The memory files by which large results reach the caller, at both ends.

A worker keeps a descriptor on each until the caller says that it has read the message
that names it. The worker looks for that when a task begins, when it sends, and in a
thread while it has nothing to do: that thread is gone while a task runs, because a
process that has one should not fork, and tasks may.
"""

from __future__ import annotations

import os
import pickle
import threading
import time
from multiprocessing import util
from typing import TYPE_CHECKING, Any

from . import _core

if TYPE_CHECKING:
    from ._envelope import Receipts

# Seconds between two looks of an idle worker, and for which one that ends waits for
# the caller: what it has open is gone with it.
_IDLE = 1.0
_LAST = 5.0

_closer: threading.Thread | None = None
_wake = threading.Event()
_waits_at_exit = False

# What the caller could not acknowledge for want of descriptors.
_missed: list[tuple[int, int, bytes]] = []


def load(message: bytes, receipts: Receipts = ()) -> Any:
    """Unpickle results in the caller, and acknowledge their files in any case."""
    try:
        return pickle.loads(message)
    finally:
        if receipts:
            _acknowledge(receipts)


def _acknowledge(receipts: Receipts) -> None:
    again = [*_missed, *receipts]
    _missed.clear()
    _missed.extend(r for r in again if not _core.acknowledge(*r))


def expect_receipts() -> None:
    """In the worker: a message with receipts has been written."""
    global _closer, _waits_at_exit
    if not _waits_at_exit:
        _waits_at_exit = True
        util.Finalize(None, _wait_for_receipts, exitpriority=0)
    if _core.close_exports() and _closer is None:
        _wake.clear()
        _closer = threading.Thread(target=_close_when_idle, daemon=True)
        _closer.start()


def begin_task() -> None:
    """In the worker: close what was read; then no thread of ours is left."""
    global _closer
    if _closer is not None:
        _wake.set()
        _closer.join()
        _wait_for_system(_closer)
        _closer = None
        _core.close_exports()


def _wait_for_system(thread: threading.Thread) -> None:
    """Wait for the end of a thread that has been joined.

    The system has it a moment longer, and os.fork counts what the system has.
    """
    path, end = f"/proc/self/task/{thread.native_id}", time.monotonic() + 0.1
    while os.path.exists(path) and time.monotonic() < end:
        time.sleep(0.0001)


def _close_when_idle() -> None:
    while not _wake.wait(_IDLE):
        if not _core.close_exports():
            return


def _wait_for_receipts() -> None:
    """Keep an ending worker until the caller has read its results, or is gone."""
    parent, end = os.getppid(), time.monotonic() + _LAST
    while _core.close_exports() and time.monotonic() < end:
        if os.getppid() != parent:
            return
        time.sleep(0.002)


def _after_fork() -> None:
    """Files and thread are the parent's."""
    global _closer, _waits_at_exit, _wake
    _closer = None
    _waits_at_exit = False
    _wake = threading.Event()
    _missed.clear()


os.register_at_fork(after_in_child=_after_fork)
