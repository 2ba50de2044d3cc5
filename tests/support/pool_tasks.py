"""What tests of pools run in workers, importable there however these were started."""

import contextlib
import os
import signal
import threading
import time

import numpy as np
import samemap

from support.equality import fingerprint
from support.kinds import plain


class Change:
    """Changes a file when it is unpickled: before what the message has after it.

    If `is_closed`, once the process that made this has the file no longer open.
    """

    def __init__(self, how, path, is_closed=False):
        pid = os.getpid() if is_closed else None
        self.reduction = change, (how, os.fspath(path), pid)

    def __reduce__(self):
        return self.reduction


def has_open(pid, path):
    # A process, or a descriptor, may be gone meanwhile.
    with contextlib.suppress(FileNotFoundError):
        for fd in os.listdir(f"/proc/{pid}/fd"):
            if os.readlink(f"/proc/{pid}/fd/{fd}") == path:
                return True
    return False


def change(how, path, pid):
    while pid is not None and has_open(pid, path):
        time.sleep(0.001)
    if how == "truncated":
        os.truncate(path, 100)
    else:
        os.unlink(path)
    if how == "replaced":
        with open(path, "wb") as file:
            file.write(bytes(1 << 16))


class Gate:
    """Is unpickled when a file is there: what the message has after it, later still."""

    def __init__(self, path):
        self.path = os.fspath(path)

    def __reduce__(self):
        return wait_for, (self.path,)


def wait_for(path):
    while not os.path.exists(path):
        time.sleep(0.001)


ERRORS = {
    "gone": samemap.BackingNotFoundError,
    "truncated": samemap.BackingTruncatedError,
    "replaced": samemap.BackingReplacedError,
}


def echo(*objects):
    return objects if len(objects) != 1 else objects[0]


def fingerprints(arrays):
    return [fingerprint(array) for array in arrays]


def overwrite(array):
    """Write to all of an array, if it can be; return if so, and what was there."""
    before = np.array(plain(array))
    if plain(array).flags.writeable:
        plain(array)[...] = -1
    return plain(array).flags.writeable, before


def add_one(array):
    """Return the first element after one was added to all."""
    array += 1
    return float(array.flat[0])


def total(array):
    return float(np.sum(array))


def total_behind(gate):
    """Return a sum when a file is there."""
    path, array = gate
    wait_for(path)
    return total(array)


def fill(array, start):
    array[start::2] = start


def make(count):
    """Return an array in ordinary memory."""
    return np.arange(count, dtype="f8")


def make_views(count):
    whole = np.arange(count, dtype="f8")
    return whole, whole[::-1], whole[: count // 2]


def scratch(path, value, count):
    """Map a file, write to all of it and return the map: the next task does, too."""
    array = np.memmap(path, np.float64, "w+", shape=(count,))
    array[:] = value
    return array


def open_map(path, how, count=None):
    """Map a file and return that, after what breaks it on its way, if anything."""
    array = np.memmap(path, np.float64, "r")
    return (Change(how, path, is_closed=True), array) if how else array


def shortened(path):
    """Return a map whose file has become shorter."""
    array = np.memmap(path, np.float64, "r")
    os.truncate(path, 100)
    return array


def raise_with(array):
    raise ValueError("with an array", array)


def count_threads():
    return len(os.listdir("/proc/self/task")), threading.active_count()


def count_open():
    """Return how many descriptors, and mappings of files, this process has."""
    with open("/proc/self/maps") as maps:
        lines = [line for line in maps if ".so" not in line]
    return len(os.listdir("/proc/self/fd")), len(lines)


def kill(*_):
    os.kill(os.getpid(), signal.SIGKILL)


def is_installed():
    return samemap.pools.installed()


def note(array, shared):
    """Note in shared memory what a process found of another array."""
    shared[:2] = array.sum(), samemap.pools.installed()


def send_total(array, connection):
    connection.send(total(array))


def serve(inbox, outbox):
    """Take arrays until None comes; answer with what `overwrite` says, or the error."""
    while True:
        try:
            array = inbox()
        except samemap.BackingError as error:
            outbox(error)
            continue
        if array is None:
            return
        if isinstance(array, tuple):
            array = array[-1]
        outbox(overwrite(array))


def serve_queues(inbox, outbox):
    serve(inbox.get, outbox.put)


def serve_pipe(connection):
    serve(connection.recv, connection.send)
