"""Tasks of the tests of dask and Ray: what workers do with what they get."""

import os
import signal
import threading
import time

import numpy as np

from support import layouts
from support.equality import fingerprint


def opened(path, expression):
    """Map a file privately and return a view of it, as a result."""
    return layouts.view(np.memmap(path, "u1", "c"), expression)


def place(array):
    """Tell what an array's memory is, and what its elements add up to."""
    return type(array).__name__, float(np.sum(array)), getattr(array, "mode", None)


def add_one(array):
    """Write to every element; return those that are there then."""
    array += 1
    return np.array(array).tolist()


def first_of(obj):
    """Find the array in an object."""
    return place(obj.array)


class Holder:
    """An object with an array."""

    def __init__(self, array):
        self.array = array


def same(obj):
    """Return what came."""
    return obj


def wait_for(path):
    """Wait for a file."""
    while not os.path.exists(path):
        time.sleep(0.01)


def second(_, array):
    """Look at an array once another task has ended."""
    return place(array)


def die(array):
    """End the worker; raise in the caller's process, where joblib may run a task."""
    from distributed import get_worker

    get_worker()
    os.kill(os.getpid(), signal.SIGKILL)


def die_once(path, array):
    """End the worker the first time."""
    if not os.path.exists(path):
        with open(path, "w"):
            pass
        os.kill(os.getpid(), signal.SIGKILL)
    return place(array)


def who():
    """Tell which process this is."""
    return os.getpid(), threading.get_ident()


def fingerprint_of(array):
    """Describe an array where it has arrived."""
    return fingerprint(array)


def opened_beside(array, path, expression):
    """Return a view of a file that the task maps, whatever array has come."""
    return opened(path, expression)


def scratch(path, value, array):
    """Map a file for writing, and return it filled."""
    found = np.memmap(path, "f8", "w+", shape=(4,))
    found[:] = value
    return found


def remove(path):
    """Take a file away."""
    os.unlink(path)


def replace(path):
    """Put another file in the place of one."""
    os.unlink(path)
    np.full(6000, 7.0).tofile(path)


def truncate(path):
    """Take most of the elements away."""
    os.truncate(path, 4096)


class Keeper:
    """An actor that returns what it was given."""

    def keep(self, obj):
        self.obj = obj

    def get(self):
        return self.obj


class WhenLoaded:
    """Calls a function with a path when it is unpickled, once."""

    def __init__(self, function, path):
        self.reduction = function, (path,)

    def __reduce__(self):
        return self.reduction


class WhenWritten:
    """Calls a function with a path when it is pickled the last time, in a worker."""

    def __init__(self, function, path):
        self.function, self.path, self.pid = function, path, os.getpid()

    def __reduce__(self):
        if os.getpid() != self.pid and os.path.exists(self.path):
            # Another look, before it is sent, finds the file as it is.
            self.count = getattr(self, "count", 0) + 1
            if self.count > 1:
                self.function(self.path)
        return WhenWritten._make, (self.function, self.path, self.pid)

    @staticmethod
    def _make(function, path, pid):
        made = WhenWritten(function, path)
        made.pid = pid
        return made
