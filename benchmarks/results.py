"""How long does a large result take to come back to the caller?

Six results a call: joblib looks every 10 ms whether one is there. A task only returns
an array that its worker has made before. With "+= 1" the caller writes to all of each
result, which copies the pages of a private map: so the peak of the caller's memory in
such a call is printed too, with the pages of memory files that it has copies of.
"""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from harness import Report, run
from harness.memory import forget_peak, peak
from harness.sides import in_turn
from harness.timing import Timings, seconds
from joblib import Parallel, delayed

CALLS = 6
MB = 1_000_000

_made: dict[int, npt.NDArray[np.float64]] = {}


def give(nbytes: int) -> npt.NDArray[np.float64]:
    """As a task: return an array of that size."""
    if nbytes not in _made:
        _made[nbytes] = np.ones(nbytes // 8)
    return _made[nbytes]


def fetch(pool: Parallel, nbytes: int) -> list[npt.NDArray[np.float64]]:
    results: list[npt.NDArray[np.float64]] = pool(
        delayed(give)(nbytes) for _ in range(CALLS)
    )
    return results


def fetch_and_add(pool: Parallel, nbytes: int) -> None:
    for result in fetch(pool, nbytes):
        result += 1


def measure_peak(backend: str, nbytes: int, rounds: int) -> Timings:
    """MB that the caller takes in one call more than before, its results included."""
    taken: Timings = {"joblib": [], "samemap": []}
    for name in in_turn(rounds):
        with Parallel(2, backend, batch_size=1) as pool:
            fetch_and_add(pool, nbytes)
            forget_peak()
            before = peak()
            results = fetch(pool, nbytes)
            for result in results:
                result += 1
            taken[name].append(peak() - before)
            del results, result
    return taken


def measure(
    backend: str, nbytes: int, what: Callable[[Parallel, int], object], rounds: int
) -> Timings:
    """Seconds a result, the sides in turn, each in a warm pool."""
    timings: Timings = {"joblib": [], "samemap": []}
    for name in in_turn(rounds):
        with Parallel(2, backend, batch_size=1) as pool:
            fetch(pool, nbytes)
            for _ in range(3):
                timings[name].append(seconds(lambda: what(pool, nbytes)) / CALLS)
    return timings


# Megabytes, and the reach of loky's pool and of multiprocessing's.
REACHES = {1: (1.3, None), 10: (5, 6), 100: (10, 12), 1000: (8, None)}


def benchmark(report: Report) -> None:
    largest = 10 if report.quick else 1000
    written = min(100, largest)
    for place, backend in enumerate(("loky", "multiprocessing")):
        for size, reaches in REACHES.items():
            if size > largest:
                continue
            rounds = report.rounds(2 if size == 1000 else 5, 1)
            timings = measure(backend, size * MB, fetch, rounds)
            report.add(
                f"result of {size:,} MB, {backend}", timings, at_least=reaches[place]
            )
        timings = measure(backend, written * MB, fetch_and_add, report.rounds(3, 1))
        report.add(
            f"result of {written} MB, then += 1, {backend}",
            timings,
            at_least=None if report.quick else 3,
        )
        taken = measure_peak(backend, written * MB, report.rounds(3, 1))
        report.add(
            f"{CALLS} results of {written} MB, then += 1, {backend}: peak memory",
            taken,
            "MB",
        )


if __name__ == "__main__":
    run(__file__, __doc__, benchmark)
