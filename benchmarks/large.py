"""What does it take to send 1 GB of mapped memory to two workers?

The array is an ``np.frombuffer`` of an `mmap.mmap`, which joblib does not know as
mapped memory: it writes the array to a file of its own, once for each array object,
and every round here makes a new one. First pickled here and loaded in two other
processes at once; then `Parallel` from end to end. What each side writes is what
appears in the folder for joblib's files.
"""

import mmap
import os
import statistics
import time
from functools import partial
from pathlib import Path

import numpy as np
from harness import (
    SIDES,
    Reader,
    Report,
    Timings,
    folder,
    in_turn,
    interleave,
    pool_dumps,
    reducers,
    run,
    seconds,
)
from joblib import Parallel, delayed
from joblib.externals.loky.backend import resource_tracker

PICKLE_AND_LOAD = 1e-3  # seconds


def last(array: np.ndarray) -> float:
    """A task that needs next to nothing of its array."""
    return float(array[-1])


def bytes_in(path: Path) -> int:
    return sum(found.stat().st_size for found in path.rglob("*") if found.is_file())


def benchmark(report: Report) -> None:
    size = 1 << (27 if report.quick else 30)
    amount = f"{size / (1 << 30):g} GiB np.frombuffer(mmap)"
    in_memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # as joblib
    with (
        folder() as path,
        folder(in_memory) as temporary,
        Reader() as first,
        Reader() as second,
    ):
        with (path / "data").open("w+b") as file:
            file.truncate(size)
            memory = mmap.mmap(file.fileno(), size)
        options = {
            "temp_folder_resolver": lambda: str(temporary / "pool"),
            "unlink_on_gc_collect": False,
        }
        tables = {name: reducers(name, **options) for name in SIDES}
        written: dict[str, list[float]] = {name: [] for name in SIDES}

        def transport(name: str) -> float:
            array = np.frombuffer(memory)
            messages: list[bytes] = []
            elapsed = seconds(lambda: messages.append(pool_dumps(array, tables[name])))
            start = time.perf_counter()
            first.send(messages[0])
            second.send(messages[0])
            first.receive()
            second.receive()
            elapsed += time.perf_counter() - start
            written[name].append(bytes_in(temporary) / 1e6)
            for file in (temporary / "pool").glob("*"):
                file.unlink()
                resource_tracker.unregister(str(file), "file")
            return elapsed

        timings = interleave(
            {name: partial(transport, name) for name in SIDES}, report.rounds(7, 2)
        )
        report.add(
            f"{amount} to two processes: pickle + load",
            timings,
            value=statistics.median(timings["samemap"]),
            value_unit="s",
            at_most=PICKLE_AND_LOAD,
        )
        report.add(
            f"{amount} to two processes: written",
            written,
            "MB",
            value=max(written["samemap"]),
            value_unit="MB",
            at_most=0,
        )

        calls: Timings = {name: [] for name in SIDES}
        for name in in_turn(report.rounds(5, 2)):
            with Parallel(n_jobs=2, temp_folder=str(temporary)) as workers:
                workers(delayed(last)(np.zeros(1)) for _ in range(8))
                array = np.frombuffer(memory)
                tasks = [delayed(last)(array)] * 2
                calls[name].append(seconds(partial(workers, tasks)))
        report.add(f"{amount} in two tasks, loky", calls)


if __name__ == "__main__":
    run(__file__, __doc__, benchmark)
