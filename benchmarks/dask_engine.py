"""What do arrays on mapped files cost on their way to dask's workers?

A `LocalCluster` of two worker processes. joblib's dask backend: tasks with a row of 8
KB each, against tasks with an int. And what goes over the wire for a memmap of 160 MB
as an argument, more than for an int, by joblib and by `submit`: all that the client
and the scheduler send. The times of both as well.
"""

import statistics
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import distributed.comm.tcp
import numpy as np
import samemap
import samemap.dask
from dask.distributed import Client, LocalCluster
from harness import Report, Timings, folder, interleave, make_memmap, run, seconds
from joblib import Parallel, delayed, parallel_config

ROWS_TO_INT, WIRE = 1.15, 1024
MB = 1_000_000
TASKS = 200

sent = 0


def count_bytes() -> None:
    """Count what this process writes: the client and the scheduler are in it."""
    stock = distributed.comm.tcp.TCP.write

    async def write(self: Any, *args: Any, **kwargs: Any) -> Any:
        global sent
        nbytes = await stock(self, *args, **kwargs)
        sent += nbytes
        return nbytes

    distributed.comm.tcp.TCP.write = write


@contextmanager
def in_force(side: str, client: Client) -> Iterator[None]:
    """Let this process send as one side does."""
    if side == "stock":
        with samemap.disabled():
            yield
        return
    samemap.dask.install(client)
    try:
        yield
    finally:
        samemap.dask.uninstall()


def by_joblib(arguments: list[Any]) -> None:
    with parallel_config(backend="dask"):
        Parallel(batch_size=1)(delayed(np.ndim)(argument) for argument in arguments)


def by_submit(client: Client, argument: Any) -> None:
    client.submit(np.ndim, argument, pure=False).result()


def nbytes(function: Callable[[], Any]) -> float:
    before = sent
    function()
    return float(sent - before)


def per_task(
    how: Callable[[Callable[[], Any]], float], count: int, function: Callable[[], Any]
) -> float:
    return how(function) / count


def measure(
    client: Client,
    how: Callable[[Callable[[], Any]], float],
    cases: Mapping[str, tuple[str, Callable[[], Any]]],
    rounds: int,
) -> Timings:
    """Measure each case with its side in force."""

    def one(side: str, function: Callable[[], Any]) -> float:
        with in_force(side, client):
            return how(function)

    return interleave(
        {name: partial(one, *case) for name, case in cases.items()}, rounds
    )


def medians_of(timings: Timings) -> dict[str, float]:
    return {name: statistics.median(values) for name, values in timings.items()}


def benchmark_rows(report: Report, client: Client, data: Any) -> None:
    rows = list(data[:TASKS])
    timings = measure(
        client,
        lambda function: seconds(function) / TASKS,
        {
            "stock": ("stock", lambda: by_joblib(rows)),
            "stock int": ("stock", lambda: by_joblib(list(range(TASKS)))),
            "samemap": ("samemap", lambda: by_joblib(rows)),
            "int": ("samemap", lambda: by_joblib(list(range(TASKS)))),
        },
        report.rounds(11),
    )
    medians = medians_of(timings)
    report.add(
        "joblib + dask: a task with a row of 8 KB, against one with an int",
        timings,
        value=medians["samemap"] / medians["int"],
        at_most=ROWS_TO_INT,
        note=f"stock {medians['stock'] / medians['stock int']:.2f} times its int",
    )


def benchmark_wire(report: Report, client: Client, data: Any, path: str) -> None:
    ways: dict[str, tuple[int, Callable[[Any], None]]] = {
        "joblib + dask": (2, lambda argument: by_joblib([argument] * 2)),
        "submit": (1, partial(by_submit, client)),
    }
    for way, (count, send) in ways.items():
        cases = {
            "stock": ("stock", partial(send, data)),
            "samemap": ("samemap", partial(send, data)),
            "int": ("samemap", partial(send, 5)),
        }
        timings = measure(
            client, partial(per_task, nbytes, count), cases, report.rounds(9)
        )
        # The least: what the cluster says of itself comes in between.
        more = min(timings["samemap"]) - min(timings["int"])
        report.add(
            f"{way}: bytes on the wire for {data.nbytes // MB} MB as argument",
            timings,
            "bytes",
            value=more,
            value_unit="bytes",
            at_most=WIRE + len(path),
            note=f"more than an int; stock {min(timings['stock']):,.0f} bytes in all",
        )
        timings = measure(
            client, partial(per_task, seconds, count), cases, report.rounds(9)
        )
        medians = medians_of(timings)
        report.add(
            f"{way}: time for {data.nbytes // MB} MB as argument",
            timings,
            value=medians["stock"] / medians["samemap"],
            note=f"samemap {medians['samemap'] / medians['int']:.2f} times the int",
        )


def benchmark(report: Report) -> None:
    count_bytes()
    megabytes = 16 if report.quick else 160
    with (
        folder() as path,
        LocalCluster(2, threads_per_worker=1, dashboard_address=None) as cluster,
        Client(cluster) as client,
    ):
        data = make_memmap(path / "data", (megabytes * MB // 8000, 1000))
        by_joblib([1] * 4)
        benchmark_rows(report, client, data)
        benchmark_wire(report, client, data, str(path / "data"))


if __name__ == "__main__":
    run(__file__, __doc__, benchmark)
