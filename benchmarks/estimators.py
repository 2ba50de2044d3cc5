"""A real workload: scikit-learn fits over many slices of a memmap.

A ridge regression in each of 2,000 sliding windows of a table, on every other column:
what a rolling analysis or a sweep over subsets does. Windows overlap, none is copied.
"""

import numpy as np
from harness import SIDES, Report, Timings, folder, in_turn, make_memmap, run, seconds
from joblib import Parallel, delayed
from sklearn.linear_model import Ridge

WINDOW = 200


def fit(features: np.ndarray, target: np.ndarray) -> np.ndarray:
    """A task: the coefficients in one window."""
    coefficients: np.ndarray = Ridge().fit(features, target).coef_
    return coefficients


def benchmark(report: Report) -> None:
    count = 300 if report.quick else 2000
    with folder() as path:
        table = make_memmap(path / "table", (count + WINDOW, 41))
        timings: Timings = {name: [] for name in SIDES}
        results: dict[str, np.ndarray] = {}

        def fits() -> list[np.ndarray]:
            found: list[np.ndarray] = Parallel(n_jobs=2)(
                delayed(fit)(table[i : i + WINDOW, :-1:2], table[i : i + WINDOW, -1])
                for i in range(count)
            )
            return found

        for name in in_turn(report.rounds(9)):
            results[name] = np.array(fits())
            timings[name].append(seconds(fits))
        same = np.array_equal(results["joblib"], results["samemap"])
        report.add(
            f"{count:,} ridge fits on windows of a memmap, loky",
            timings,
            note="same results" if same else "DIFFERENT RESULTS",
        )


if __name__ == "__main__":
    run(__file__, __doc__, benchmark)
