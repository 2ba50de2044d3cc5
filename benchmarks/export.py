"""How long does it take to give the bytes of an array to other processes?

160, 8 and 1 MB in ordinary memory, written to where workers can map them: by
joblib.dump to a file in memory, as joblib does for large arrays, and to a memory file
on large pages. A copy into fresh memory is what no export can do without. Then
the freeing of both.
"""

import mmap
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import joblib
import numpy as np
from harness import Report, Timings, interleave, run
from samemap import _core

# Against joblib.dump, and against a copy.
REACH, REACH_COPY = 3.5, 1.3


def stopwatch(times: list[float], make: Callable[[], object]) -> Callable[[], float]:
    """Time of a call; `times` gets that of the death of what it returns."""

    def watch() -> float:
        start = time.perf_counter()
        result = make()
        end = time.perf_counter()
        del result
        times.append(time.perf_counter() - end)
        return end - start

    return watch


class Dump:
    """A file that joblib writes, as long as this lives."""

    def __init__(self, array: np.ndarray, path: Path) -> None:
        self.path = path
        joblib.dump(array, path)

    def __del__(self) -> None:
        self.path.unlink()


def copy(array: np.ndarray) -> np.ndarray:
    """A copy into memory that nobody had before, on large pages: no allocator's."""
    memory = mmap.mmap(-1, array.nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.madvise(mmap.MADV_HUGEPAGE)
    result = np.frombuffer(memory)
    np.copyto(result, array)
    return result


def measure(report: Report, folder: Path, nbytes: int) -> None:
    array = np.ones(nbytes // 8)
    flat = array.view(np.uint8).data
    freeing: Timings = {"joblib": [], "samemap": [], "a copy": []}
    makers: dict[str, Callable[[], object]] = {
        "joblib": lambda: Dump(array, folder / "dump"),
        "samemap": lambda: _core.shared_memory(nbytes, flat),
        "a copy": lambda: copy(array),
    }
    watches = {name: stopwatch(freeing[name], make) for name, make in makers.items()}
    timings = interleave(watches, report.rounds(25))
    megabytes = nbytes // 1_000_000
    large = megabytes >= 100
    what = f"{megabytes} MB of ordinary memory"
    report.add(f"export of {what}", timings, at_least=REACH if large else None)
    best = {name: min(times) for name, times in timings.items()}
    report.add(
        f"export of {what}, against a copy",
        {name: timings[name] for name in ("samemap", "a copy")},
        value=best["samemap"] / best["a copy"],
        at_most=REACH_COPY if large else None,
        note=f"of the quickest rounds; joblib: {best['joblib'] / best['samemap']:.2f}x",
    )
    report.add(f"freeing the export of {what}", freeing)


def benchmark(report: Report) -> None:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        for megabytes in (16, 1) if report.quick else (160, 8, 1):
            measure(report, Path(folder), megabytes * 1_000_000)


if __name__ == "__main__":
    run(__file__, __doc__, benchmark)
