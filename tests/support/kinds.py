"""Kinds of memory that an array can lie in, made as programs make them.

Each kind is filled with the numbers 0, 1, 2, ... and says who sees what a task
writes: `SHARED` (the file, the caller and the other tasks), `OWN` (the task alone),
`READ_ONLY` (nobody may write), or `MEMORY`: the task alone; above `max_nbytes` only
where the system gives memory files, else as joblib does it, a read-only dump.
"""

import ctypes
import importlib
import mmap
import multiprocessing
import multiprocessing.shared_memory
import os
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import samemap

SHARED, OWN, READ_ONLY, MEMORY = "shared", "own", "read-only", "memory"

RECORD = np.dtype([("number", np.int64)])

# How many numbers are enough for maps of some pages.
COUNT = 6000


@dataclass(frozen=True)
class Kind:
    """One way to come by an array of `count` numbers.

    `make(path, count, stack)` returns it; a file, if there is one, is at `path`, and
    what has to be closed when the array is gone is given to `stack`.
    """

    writes: str
    make: Callable[[Path, int, ExitStack], Any]
    library: str | None = None
    breaks_joblib: bool = False

    def missing(self) -> str | None:
        """Say why there are none here, or None."""
        if self.breaks_joblib and not samemap.installed():
            return "joblib can't send it"
        try:
            importlib.import_module(self.library or "numpy")
        except ImportError:
            return f"no {self.library}"
        return None


KINDS: dict[str, Kind] = {}


def kind(name, writes, **more):
    def add(make):
        KINDS[name] = Kind(writes, make, **more)
        return make

    return add


def plain(array):
    """Return the numbers of an array of any kind, as a view."""
    if isinstance(array, np.ma.MaskedArray):
        array = array.data
    return array["number"] if array.dtype.names else array


def raw_file(path, count):
    np.arange(count).tofile(path)
    return path


def by_memmap(mode):
    return lambda path, count, stack: np.memmap(raw_file(path, count), np.int64, mode)


def written_memmap(path, count, stack):
    array = np.memmap(path, np.int64, "w+", shape=(count,))
    array[:] = np.arange(count)
    return array


def modified_memmap(path, count, stack):
    """A private map whose pages are not those of the file."""
    np.zeros(count, np.int64).tofile(path)
    array = np.memmap(path, np.int64, "c")
    array[:] = np.arange(count)
    return array


MEMMAPS = {
    "r+": (SHARED, by_memmap("r+")),
    "w+": (SHARED, written_memmap),
    "r": (READ_ONLY, by_memmap("r")),
    "c": (OWN, by_memmap("c")),
    "c, modified": (OWN, modified_memmap),
}


def as_ndarray(make):
    return lambda *args: make(*args).view(np.ndarray)


for _mode, (_writes, _make) in MEMMAPS.items():
    KINDS[f"memmap {_mode}"] = Kind(_writes, _make)
    KINDS[f"ndarray of memmap {_mode}"] = Kind(_writes, as_ndarray(_make))


@kind("memmap of a TemporaryFile", SHARED, breaks_joblib=True)
def temporary_memmap(path, count, stack):
    with tempfile.TemporaryFile(dir=path.parent) as file:
        np.arange(count).tofile(file)
        file.flush()
        return np.memmap(file, np.int64, "r+")


def by_mmap(access):
    def make(path, count, stack):
        with raw_file(path, count).open("r+b") as file:
            return np.frombuffer(mmap.mmap(file.fileno(), 0, access=access), np.int64)

    return make


KINDS["mmap"] = Kind(OWN, by_mmap(mmap.ACCESS_WRITE))
KINDS["mmap, ACCESS_COPY"] = Kind(OWN, by_mmap(mmap.ACCESS_COPY))
KINDS["mmap, ACCESS_READ"] = Kind(READ_ONLY, by_mmap(mmap.ACCESS_READ))


@kind("mmap of an unlinked file", OWN)
def unlinked_mmap(path, count, stack):
    array = KINDS["mmap"].make(path, count, stack)
    path.unlink()
    return array


def by_fits(mode):
    def make(path, count, stack):
        from astropy.io import fits

        fits.PrimaryHDU(np.arange(count)).writeto(path)
        hdus = fits.open(path, mode=mode)
        data = hdus[0].data
        # Kept open as long as the array, so that nothing is written at a close.
        stack.callback(lambda: hdus)
        return data

    return make


KINDS["FITS image"] = Kind(OWN, by_fits("readonly"), "astropy.io.fits")
KINDS["FITS image, update"] = Kind(OWN, by_fits("update"), "astropy.io.fits")


def arrow_buffer(path, count, stack, mode):
    import pyarrow

    buffer = pyarrow.memory_map(str(raw_file(path, count)), mode).read_buffer()
    stack.callback(lambda: buffer)
    return buffer


@kind("Arrow, r", READ_ONLY, library="pyarrow")
def by_arrow(path, count, stack, mode="r"):
    return np.frombuffer(arrow_buffer(path, count, stack, mode), np.int64)


@kind("Arrow, r+", READ_ONLY, library="pyarrow")
def by_writable_arrow(path, count, stack):
    return by_arrow(path, count, stack, "r+")


@kind("Arrow, r+, by address", OWN, library="pyarrow")
def by_address_of_arrow(path, count, stack):
    """Arrow's buffers are read-only for Python; a program writes by the address."""
    address = arrow_buffer(path, count, stack, "r+").address
    return np.frombuffer((ctypes.c_int64 * count).from_address(address), np.int64)


@kind("SharedMemory", OWN)
def in_shared_memory(path, count, stack):
    memory = multiprocessing.shared_memory.SharedMemory(create=True, size=count * 8)
    stack.callback(memory.unlink)
    stack.callback(memory.close)
    array = np.ndarray((count,), np.int64, memory.buf)
    array[:] = np.arange(count)
    return array


@kind("memfd", OWN)
def in_memfd(path, count, stack):
    number = os.memfd_create("numbers")
    os.write(number, np.arange(count).tobytes())
    array = np.frombuffer(mmap.mmap(number, count * 8), np.int64)
    os.close(number)
    return array


@kind("RawArray", OWN)
def in_raw_array(path, count, stack):
    array = np.frombuffer(multiprocessing.RawArray("q", count), np.int64)
    array[:] = np.arange(count)
    return array


@kind("anonymous mmap", MEMORY)
def in_anonymous_mmap(path, count, stack):
    array = np.frombuffer(mmap.mmap(-1, count * 8), np.int64)
    array[:] = np.arange(count)
    return array


KINDS["memory"] = Kind(MEMORY, lambda path, count, stack: np.arange(count))


def subclass(name, view):
    for parent in ("memmap c, modified", "mmap", "FITS image"):
        under = KINDS[parent]
        KINDS[f"{name} on {parent}"] = Kind(
            OWN, lambda *args, make=under.make: view(make(*args)), under.library
        )


def as_records(array):
    """Numbers of any byte order as records of one field."""
    return array.view([("number", array.dtype)]).view(np.recarray)


subclass("recarray", as_records)
subclass("MaskedArray", np.ma.MaskedArray)
