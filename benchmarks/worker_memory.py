"""Does the memory of a worker stay flat, and does loky leave the worker alone?

10,000 tasks, each with a view of one of 100 memmaps, in ten calls of `Parallel`; the
workers' resident memory after each call. Then tasks that touch all of a memmap of
400 MB: loky looks once a second and ends a worker that has grown by 300 MB.
"""

import os
import time
from pathlib import Path

import numpy as np
from harness import SIDES, Report, folder, make_memmap, run, side
from joblib import Parallel, delayed

CALLS = 10
FILES = 100
LARGE = 400_000_000  # bytes
LARGE_TASKS = 40
GROWTH, WORKERS = 1, 2  # MB, and how many there ever are

Seen = dict[int, float]


def resident() -> tuple[int, float]:
    """A task: who did it, and its resident memory in MB."""
    time.sleep(0.01)  # so that the other worker gets some as well
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return os.getpid(), pages * os.sysconf("SC_PAGESIZE") / 1e6


def touch(array: np.ndarray) -> int:
    """A task that reads all of an array."""
    array.sum()
    return os.getpid()


def ask(workers: Parallel) -> Seen:
    """Resident memory of each worker now."""
    return dict(workers([delayed(resident)()] * 12))


def benchmark(report: Report) -> None:
    tasks = (2000 if report.quick else 10_000) // CALLS
    large_tasks = 4 if report.quick else LARGE_TASKS
    with folder() as path:
        maps = [make_memmap(path / f"{i:02}", (1000, 10)) for i in range(FILES)]
        with (path / "large").open("wb") as file:
            file.truncate(LARGE)
        large = np.memmap(str(path / "large"), "u1", "r")
        growth, seen, after_large = {}, {}, {}
        for name in SIDES:
            with side(name), Parallel(n_jobs=2) as workers:
                history: list[Seen] = []
                for _ in range(CALLS):
                    workers(delayed(touch)(maps[i % FILES][i:]) for i in range(tasks))
                    history.append(ask(workers))
                first = history[0]
                growth[name] = [
                    mb - first[pid] for pid, mb in history[-1].items() if pid in first
                ]
                pids = {pid for found in history for pid in found}
                pids.update(workers([delayed(touch)(large)] * large_tasks))
                last = ask(workers)
                after_large[name] = [mb - first.get(p, 0) for p, mb in last.items()]
                seen[name] = [float(len(pids | set(last)))]
        report.add(
            f"growth of a worker over {tasks * (CALLS - 1):,} tasks",
            growth,
            "MB",
            value=max(growth["samemap"]),
            value_unit="MB",
            at_most=GROWTH,
        )
        report.add(
            f"growth of a worker, after {large_tasks} tasks more with a memmap of "
            f"{LARGE // 1_000_000} MB",
            after_large,
            "MB",
            value=max(after_large["samemap"]),
            value_unit="MB",
            at_most=GROWTH,
        )
        report.add(
            "workers in all (n_jobs=2)",
            seen,
            "",
            value=seen["samemap"][0],
            value_unit="",
            at_most=WORKERS,
        )


if __name__ == "__main__":
    run(__file__, __doc__, benchmark)
