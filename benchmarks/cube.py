"""A real workload: one task for each row of a data cube.

The cube is a memmap of 300 channels of 100 by 120 pixels; a row is the spectrum of a
pixel, ``cube[:, y, x]``, and its task is a robust estimate of the noise in it.
"""

import numpy as np
from harness import SIDES, Report, Timings, folder, in_turn, make_memmap, run, seconds
from joblib import Parallel, delayed

CHANNELS, WIDTH = 300, 120


def noise(spectrum: np.ndarray) -> float:
    """A task: the median absolute deviation of one row."""
    return float(np.median(np.abs(spectrum - np.median(spectrum))))


def benchmark(report: Report) -> None:
    height = 20 if report.quick else 100
    with folder() as path:
        cube = make_memmap(path / "cube", (CHANNELS, height, WIDTH), "f4")
        rows = cube.reshape(CHANNELS, -1).T
        timings: Timings = {name: [] for name in SIDES}
        results: dict[str, list[float]] = {}

        def call() -> list[float]:
            found: list[float] = Parallel(n_jobs=2)(delayed(noise)(r) for r in rows)
            return found

        for name in in_turn(report.rounds(7)):
            results[name] = call()
            timings[name].append(seconds(call))
        same = results["joblib"] == results["samemap"]
        report.add(
            f"{len(rows):,} rows of a data cube, loky",
            timings,
            note="same results" if same else "DIFFERENT RESULTS",
        )


if __name__ == "__main__":
    run(__file__, __doc__, benchmark)
