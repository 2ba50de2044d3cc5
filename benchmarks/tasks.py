"""How long do 8,000 tasks take that get one row each?

``Parallel(n_jobs=2)`` with its defaults, which batch the tasks as joblib sees fit,
for joblib, for samemap, and for the same tasks with an int instead of the row.
Loky's workers run already; multiprocessing's are started by every call. As joblib
needs longer where the file was named by a `Path`, both are measured.
"""

from collections.abc import Callable, Iterable

import numpy as np
from harness import (
    SIDES,
    Report,
    Timings,
    by_path,
    folder,
    in_turn,
    make_memmap,
    run,
    seconds,
)
from joblib import Parallel, delayed

REACH = {"multiprocessing": 3, "loky": 4}
LOKY_TO_INT = 2.5


def take(argument: object) -> None:
    """A task that does nothing."""


def call(backend: str, arguments: Callable[[], Iterable[object]]) -> float:
    """Time of one call of `Parallel` with a task for each argument."""
    return seconds(
        lambda: Parallel(n_jobs=2, backend=backend)(
            delayed(take)(argument) for argument in arguments()
        )
    )


def compare(backend: str, array: np.ndarray, rounds: int) -> Timings:
    timings: Timings = {s: [] for s in (*SIDES, "int")}
    for name in in_turn(rounds):
        if backend == "loky":
            call(backend, lambda: array[:200])  # starts the workers
        timings[name].append(call(backend, lambda: array))
        if name == "samemap":
            timings["int"].append(call(backend, lambda: range(len(array))))
    return timings


def benchmark(report: Report) -> None:
    count = 2000 if report.quick else 8000
    with folder() as path:
        memmap = make_memmap(path / "data", (count, 50))
        # Multiprocessing forks: before loky starts threads in this process.
        for backend, reach in REACH.items():
            for named_by, array in (("str", memmap), ("Path", by_path(memmap))):
                timings = compare(backend, array, report.rounds(11))
                measure = f"{count:,} tasks with a row, {backend}, of a {named_by}"
                row = report.add(measure, timings, at_least=reach)
                sides = {name: timings[name] for name in ("samemap", "int")}
                report.add(
                    f"{measure}: samemap / int",
                    sides,
                    value=row.sides["samemap"].median / row.sides["int"].median,
                    at_most=LOKY_TO_INT if backend == "loky" else None,
                )


if __name__ == "__main__":
    run(__file__, __doc__, benchmark)
