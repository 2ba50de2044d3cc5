"""A day at work under odd circumstances; run as a program.

Prints one line a case and pool: "right" when the worker had the right values (or
the expected error came), else what happened instead.
"""

import mmap
import multiprocessing.shared_memory
import os
import sys
import tempfile
import traceback
from pathlib import Path

import numpy as np
import samemap
from joblib import Parallel, delayed

sys.path.append(str(Path(__file__).parents[1]))
from support import machine  # noqa: F401  (may make it not dumpable)

DATA = np.arange(4096, dtype=np.int64)


def copy(array, *_):
    return np.array(array)


class Forbid:
    """Loading it, before the array, takes all permissions from a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.chmod, (self.path, 0)


def new_file(folder, name):
    path = Path(folder, name)
    DATA.tofile(path)
    return path


def arrays(folder):
    """Yield a name and an array with the values of `DATA`."""
    yield "memmap", np.memmap(new_file(folder, "a"), np.int64, "r+")
    with new_file(folder, "b").open("r+b") as file:
        yield "mmap", np.frombuffer(mmap.mmap(file.fileno(), 0), np.int64)
    path = new_file(folder, "c")
    unlinked = np.memmap(path, np.int64, "r+")
    path.unlink()
    yield "unlinked", unlinked
    with tempfile.TemporaryFile(dir=folder) as file:
        DATA.tofile(file)
        yield "TemporaryFile", np.memmap(file, np.int64, "r")
    private = np.memmap(new_file(folder, "d"), np.int64, "c")
    private[:] = 0
    private[:] = DATA
    yield "private", private
    memory = multiprocessing.shared_memory.SharedMemory(create=True, size=DATA.nbytes)
    memory.unlink()
    shared = np.ndarray(DATA.shape, np.int64, memory.buf)
    shared[:] = DATA
    yield "SharedMemory", shared
    path = new_file(folder, "e")
    forbidden = np.memmap(path, np.int64, "r+")
    path.chmod(0)
    yield "forbidden", forbidden


def outcome(backend, array):
    try:
        tasks = [delayed(copy)(array[::-1])] * 2
        results = Parallel(n_jobs=2, backend=backend)(tasks)
    except Exception:
        return traceback.format_exc()
    good = all(np.array_equal(result, DATA[::-1]) for result in results)
    return "right" if good else "other values"


def forbidden_on_the_way(backend, folder):
    """Only for those whom permissions bind."""
    path = new_file(folder, f"forbidden-{backend}")
    array = np.memmap(path, np.int64, "r")
    try:
        Parallel(n_jobs=2, backend=backend)([delayed(copy)(array, Forbid(path))])
    except samemap.BackingPermissionError as error:
        return "right" if error.path == str(path) else repr(error)
    except Exception:
        return traceback.format_exc()
    return "no error"


def main():
    backends = ("multiprocessing", "loky")
    with tempfile.TemporaryDirectory() as folder:
        for name, array in arrays(folder):
            for backend in backends:
                print(f"{name}, {backend}: {outcome(backend, array)}")
        probe = new_file(folder, "probe")
        probe.chmod(0)
        if not os.access(probe, os.R_OK, effective_ids=True):
            for backend in backends:
                result = forbidden_on_the_way(backend, folder)
                print(f"forbidden on the way, {backend}: {result}")


if __name__ == "__main__":
    main()
