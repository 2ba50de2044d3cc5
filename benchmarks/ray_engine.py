"""What do arrays on mapped files cost on their way to Ray's workers?

One node with two workers, which run already. A memmap of 160 MB as an argument, against
an int; and what is put, against stock. The result of a task that maps the file, and
tasks of joblib's Ray backend in one pool.
"""

import statistics
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import ray
import samemap
import samemap.ray
from harness import Report, Timings, folder, interleave, make_memmap, run, seconds
from joblib import Parallel, delayed, parallel_config
from ray.util.joblib import register_ray

ARGUMENT_TO_INT, PUT = 2.0, 200.0
MB = 1_000_000
TASKS = 4


def count_axes(array: Any) -> int:
    return int(np.ndim(array))


def open_file(path: str, array: Any) -> Any:
    return np.memmap(path, "f8", "r")


ndim: Any = ray.remote(count_axes)
opened: Any = ray.remote(open_file)


@contextmanager
def in_force(side: str) -> Iterator[None]:
    """Let this process send as one side does."""
    if side == "stock":
        yield
        return
    samemap.ray.install()
    try:
        yield
    finally:
        samemap.ray.uninstall()


def measure(cases: Mapping[str, tuple[str, Callable[[], Any]]], rounds: int) -> Timings:
    """Measure each case with its side in force."""

    def one(side: str, function: Callable[[], Any]) -> float:
        with in_force(side):
            return seconds(function)

    return interleave(
        {name: partial(one, *case) for name, case in cases.items()}, rounds
    )


def medians_of(timings: Timings) -> dict[str, float]:
    return {name: statistics.median(values) for name, values in timings.items()}


def benchmark_argument(report: Report, data: Any) -> None:
    def send(argument: Any) -> None:
        ray.get(ndim.remote(argument))

    cases = {
        "stock": ("stock", partial(send, data)),
        "samemap": ("samemap", partial(send, data)),
        "int": ("samemap", partial(send, 5)),
        "stock int": ("stock", partial(send, 5)),
    }
    timings = measure(cases, report.rounds(21))
    medians = medians_of(timings)
    report.add(
        f"{data.nbytes // MB} MB as argument, against an int",
        timings,
        value=medians["samemap"] / medians["int"],
        at_most=ARGUMENT_TO_INT,
        note=f"stock {medians['stock'] / medians['stock int']:.0f} times its int; an "
        f"int costs {medians['int'] / medians['stock int']:.2f} times stock's",
    )


def benchmark_put(report: Report, data: Any) -> None:
    cases = {
        "stock": ("stock", partial(ray.put, data)),
        "samemap": ("samemap", partial(ray.put, data)),
        "int": ("samemap", partial(ray.put, 5)),
    }
    timings = measure(cases, report.rounds(21))
    medians = medians_of(timings)
    report.add(
        f"put of {data.nbytes // MB} MB",
        timings,
        value=medians["stock"] / medians["samemap"],
        at_least=PUT,
        note=f"{medians['samemap'] / medians['int']:.2f} times an int",
    )


def benchmark_result(report: Report, data: Any, path: Path) -> None:
    def receive() -> None:
        # A small array tells the worker of samemap, or that it is out of force.
        ray.get(opened.remote(str(path), data[:1]))

    cases = {side: (side, receive) for side in ("stock", "samemap")}
    timings = measure(cases, report.rounds(21))
    medians = medians_of(timings)
    report.add(
        f"a result of {data.nbytes // MB} MB",
        timings,
        value=medians["stock"] / medians["samemap"],
    )


def benchmark_joblib(report: Report, data: Any) -> None:
    with parallel_config(backend="ray"), Parallel(n_jobs=2, batch_size=1) as parallel:

        def send(side: str, argument: Any) -> float:
            tasks = [delayed(count_axes)(argument)] * TASKS
            if side == "samemap":
                return seconds(lambda: parallel(tasks)) / TASKS
            with samemap.disabled():
                return seconds(lambda: parallel(tasks)) / TASKS

        cases = {
            "stock": partial(send, "stock", data),
            "samemap": partial(send, "samemap", data),
            "int": partial(send, "samemap", 5),
        }
        for case in cases.values():
            case()
        timings = interleave(cases, report.rounds(9))
    medians = medians_of(timings)
    report.add(
        f"joblib + Ray: a task with {data.nbytes // MB} MB",
        timings,
        value=medians["stock"] / medians["samemap"],
        note=f"samemap {medians['samemap'] / medians['int']:.2f} times the int",
    )


def benchmark(report: Report) -> None:
    megabytes = 16 if report.quick else 160
    ray.init(
        num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR"
    )
    try:
        with folder() as path:
            data = make_memmap(path / "data", (megabytes * MB // 8000, 1000))
            for side in ("stock", "samemap"):
                with in_force(side):
                    ray.get([ndim.remote(data[:1]) for _ in range(8)])
            register_ray()
            benchmark_argument(report, data)
            benchmark_put(report, data)
            benchmark_result(report, data, path / "data")
            benchmark_joblib(report, data)
    finally:
        ray.shutdown()


if __name__ == "__main__":
    run(__file__, __doc__, benchmark)
