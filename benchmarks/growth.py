"""Does a view cost the same however many maps and views there are?

To pickle and to load it, with 10, 1,000 and 10,000 other maps in the process, all of
which were sent before; and with 10 to 100,000 views in one message, where a message
with one view is subtracted: the cost of each further one. Also for owners that are
looked up by address, a ctypes array and a DLPack capsule.

The value is the largest cost over the smallest. Beside the growth with the length of
a message stands that of pickle itself, for a list of tuples of a string and nine
bytes, and that of samemap while Python's garbage collector is off.
"""

import ctypes
import gc
import math
import mmap
import os
import pickle
import resource
import statistics
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from harness import (
    SIDES,
    Report,
    Table,
    Timings,
    cpu_seconds,
    folder,
    make_memmap,
    pool_dumps,
    reducers,
    run,
    time_calls,
)

REACH = 1.2
VIEWS = 1000
OTHERS = (10, 1000, 10_000)
LENGTHS = (10, 100, 1000, 10_000, 100_000)
ROWS = 1020
SHAPE = (ROWS, 50)


def on_ctypes(path: Path) -> np.ndarray:
    """An array whose memory belongs to a ctypes object on a map."""
    with path.open("r+b") as file:
        memory = mmap.mmap(file.fileno(), 0)
    # NumPy's stubs don't know that a ctypes array is a buffer.
    owner: Any = (ctypes.c_double * math.prod(SHAPE)).from_buffer(memory)
    return np.ndarray(SHAPE, buffer=owner)


def on_dlpack(path: Path) -> np.ndarray:
    """An array whose memory belongs to a DLPack capsule."""
    memmap = np.memmap(str(path), "f8", "r+", shape=SHAPE)
    return np.from_dlpack(np.asarray(memmap))


def windows(array: np.ndarray, count: int) -> list[np.ndarray]:
    return [array[i % (ROWS - 20) : i % (ROWS - 20) + 20, ::2] for i in range(count)]


def other_maps(path: Path, count: int, table: Table) -> list[np.memmap]:
    """Maps that were sent before. All at the same offset, so that they don't merge."""
    others = [np.memmap(str(path), "u1", "r", shape=(100,)) for _ in range(count)]
    pool_dumps(others, table)
    return others


def flatness(timings: Timings) -> float:
    medians = [statistics.median(times) for times in timings.values()]
    return max(medians) / min(medians)


def among_other_maps(report: Report, path: Path, tables: dict[str, Table]) -> None:
    """Cost a view with more and more other maps in the process."""
    memmap = make_memmap(path / "data", SHAPE)
    views = {
        "memmap": windows(memmap, VIEWS),
        "ndarray": windows(np.asarray(memmap), VIEWS),
        "ctypes": windows(on_ctypes(path / "data"), VIEWS),
        "DLPack": windows(on_dlpack(path / "data"), VIEWS),
    }
    calls: dict[tuple[str, str, str], Callable[[], Any]] = {}
    for name, table in tables.items():
        for kind, arrays in views.items():
            if name == "joblib" and kind != "memmap":
                continue
            message = pool_dumps(arrays, table)
            calls[name, "pickle", kind] = partial(pool_dumps, arrays, table)
            if kind in ("memmap", "ndarray"):
                calls[name, "load", kind] = partial(pickle.loads, message)
    timings: dict[tuple[str, str, str], Timings] = {key: {} for key in calls}
    for number in range(report.rounds(9)):
        for count in OTHERS[:: -1 if number % 2 else 1]:
            others = other_maps(path / "data", count, tables["samemap"])
            for key, call in calls.items():
                call()
                times = timings[key].setdefault(f"{count:,} maps", [])
                times.append(cpu_seconds(call, 1 if key[0] == "joblib" else 10) / VIEWS)
            del others
    for (name, verb, kind), found in timings.items():
        report.add(
            f"growth with other maps: {verb} a {kind} view, {name}",
            found,
            value=flatness(found),
            at_most=REACH if name == "samemap" else None,
        )


def grow(
    report: Report,
    measure: str,
    make: Callable[[int], Callable[[], Any]],
    lengths: tuple[int, ...],
    reach: float | None = None,
) -> None:
    """Add a row: the cost of each further item that a message of `make` has."""
    calls = {f"{count:,} views": make(count) for count in (1, *lengths)}
    timings = time_calls(calls, report.rounds(11))
    alone = timings.pop("1 views")
    further: Timings = {}
    for count, (name, times) in zip(lengths, timings.items(), strict=True):
        pairs = zip(times, alone, strict=True)
        further[name] = [(some - one) / (count - 1) for some, one in pairs]
    value = flatness(further)
    report.add(
        f"growth with the message: {measure}", further, value=value, at_most=reach
    )


def in_longer_messages(report: Report, path: Path, tables: dict[str, Table]) -> None:
    """Cost of each further view with more and more of them in one message."""

    def pickling(array: np.ndarray, name: str) -> Callable[[int], Callable[[], Any]]:
        def make(count: int) -> Callable[[], Any]:
            views = windows(array, count)
            return lambda: pool_dumps(views, tables[name])

        return make

    def loading(array: np.ndarray, name: str) -> Callable[[int], Callable[[], Any]]:
        def make(count: int) -> Callable[[], Any]:
            message = pool_dumps(windows(array, count), tables[name])
            return lambda: pickle.loads(message)

        return make

    def tuples(load: bool) -> Callable[[int], Callable[[], Any]]:
        def make(count: int) -> Callable[[], Any]:
            items = [("name", os.urandom(9)) for _ in range(count)]
            message = pool_dumps(items, {})
            return lambda: pickle.loads(message) if load else pool_dumps(items, {})

        return make

    lengths = LENGTHS[:-1] if report.quick else LENGTHS
    memmap = make_memmap(path / "data", SHAPE)
    arrays = {"memmap": memmap, "ndarray": np.asarray(memmap)}
    for kind, array in arrays.items():
        to_pickle, to_load = pickling(array, "samemap"), loading(array, "samemap")
        grow(report, f"pickle a {kind} view, samemap", to_pickle, lengths, REACH)
        grow(report, f"load a {kind} view, samemap", to_load, lengths, REACH)
        with no_collection():
            grow(report, f"pickle a {kind} view, samemap, no gc", to_pickle, lengths)
            grow(report, f"load a {kind} view, samemap, no gc", to_load, lengths)
    by_address = pickling(on_ctypes(path / "data"), "samemap")
    grow(report, "pickle a ctypes view, samemap", by_address, lengths, REACH)
    # joblib needs a map and a descriptor for each view that it loads.
    grow(report, "pickle a memmap view, joblib", pickling(memmap, "joblib"), lengths)
    few = lengths[:3]
    grow(report, "load a memmap view, joblib", loading(memmap, "joblib"), few)
    grow(report, "pickle a tuple of bytes", tuples(load=False), lengths)
    grow(report, "load a tuple of bytes", tuples(load=True), lengths)


@contextmanager
def no_collection() -> Iterator[None]:
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def benchmark(report: Report) -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    tables = {name: reducers(name) for name in SIDES}
    with folder() as path:
        among_other_maps(report, path, tables)
        in_longer_messages(report, path, tables)


if __name__ == "__main__":
    run(__file__, __doc__, benchmark)
