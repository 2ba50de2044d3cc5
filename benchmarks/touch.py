"""Is touching mapped memory as fast as with joblib?

60 tasks, each of which sums all of a 64 MB memmap: the work is reading the pages, and
sending the array should not be seen.
"""

from functools import partial

import numpy as np
from harness import SIDES, Report, Timings, folder, in_turn, make_memmap, run, seconds
from joblib import Parallel, delayed

TASKS = 60
# Not slower, but for what two runs of the same side differ by.
REACH = 0.97


def total(array: np.ndarray) -> float:
    return float(array.sum())


def benchmark(report: Report) -> None:
    rows = (4 if report.quick else 64) * 1000
    with folder() as path:
        memmap = make_memmap(path / "data", (rows, 125))
        timings: Timings = {name: [] for name in SIDES}
        for name in in_turn(report.rounds(15)):
            with Parallel(n_jobs=2) as workers:
                workers([delayed(total)(memmap)] * 4)
                tasks = [delayed(total)(memmap)] * TASKS
                timings[name].append(seconds(partial(workers, tasks)))
        megabytes = memmap.nbytes // 1_000_000
        measure = f"{TASKS} tasks that touch all of a {megabytes} MB memmap, loky"
        report.add(measure, timings, at_least=REACH)


if __name__ == "__main__":
    run(__file__, __doc__, benchmark)
