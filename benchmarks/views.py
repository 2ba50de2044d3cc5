"""What does it cost to pickle and to load 1,000 views of one memmap?

With the pickler of joblib's multiprocessing pool; loaded in another process. The
reach is about 2-D strided windows. A file that was named by a `Path` instead of a
string costs joblib more than half as much again to load, contiguous rows cost it
less; so there are rows for each.
"""

from collections.abc import Callable
from functools import partial

import numpy as np
from harness import (
    SIDES,
    Reader,
    Report,
    Table,
    by_path,
    folder,
    interleave,
    make_memmap,
    per,
    pool_dumps,
    reducers,
    run,
    time_calls,
)

COUNT = 1000
PICKLE, LOAD_MEMMAP, LOAD_NDARRAY, NBYTES = 14, 60, 200, 32


def window(array: np.ndarray, i: int) -> np.ndarray:
    return array[i : i + 20, ::2]


def row(array: np.ndarray, i: int) -> np.ndarray:
    return array[i, :]


def compare(
    report: Report,
    reader: Reader,
    tables: dict[str, Table],
    array: np.ndarray,
    cut: Callable[[np.ndarray, int], np.ndarray],
    name: str,
    reach: tuple[float | None, float | None, float | None] = (None, None, None),
) -> None:
    """Add the rows of one kind of view; `reach` is to pickle, to load, in bytes."""
    rounds = report.rounds(25, 5)
    views = [cut(array, i) for i in range(COUNT)]
    messages = {s: pool_dumps(views, tables[s]) for s in SIDES}
    writers = {s: partial(pool_dumps, views, tables[s]) for s in SIDES}
    readers = {s: reader.stopwatch(messages[s]) for s in SIDES}
    pickling = per(COUNT, time_calls(writers, rounds))
    loading = per(COUNT, interleave(readers, rounds))
    report.add(f"pickle a view: {name}", pickling, at_least=reach[0])
    report.add(f"load a view: {name}", loading, at_least=reach[1])
    first = {s: len(pool_dumps(views[:1], tables[s])) for s in SIDES}
    further = {s: [(len(messages[s]) - first[s]) / (COUNT - 1)] for s in SIDES}
    report.add(
        f"message, each further view: {name}",
        further,
        "bytes",
        value=further["samemap"][0],
        value_unit="bytes",
        at_most=reach[2],
    )


def benchmark(report: Report) -> None:
    tables = {name: reducers(name) for name in SIDES}
    with folder() as path, Reader() as reader:
        memmap = make_memmap(path / "data", (COUNT + 20, 50))
        for name, array in (("str", memmap), ("Path", by_path(memmap))):
            of = f"2-D strided, of a {name}"
            reach = (PICKLE, LOAD_MEMMAP, NBYTES)
            compare(report, reader, tables, array, window, f"memmap, {of}", reach)
            reach = (PICKLE, LOAD_NDARRAY, NBYTES)
            plain = np.asarray(array)
            compare(report, reader, tables, plain, window, f"ndarray, {of}", reach)
        compare(report, reader, tables, memmap, row, "memmap, row, of a str")
        plain = np.asarray(memmap)
        compare(report, reader, tables, plain, row, "ndarray, row, of a str")


if __name__ == "__main__":
    run(__file__, __doc__, benchmark)
