"""What do the standard library's pools cost with ``samemap.pools.install()``?

A `multiprocessing.Pool` and a `ProcessPoolExecutor` of two forked workers, without and
with it: 160 MB on an `np.memmap` as an argument, against an int; 160 MB in ordinary
memory as an argument, an array in every round that was never sent before; 160 MB as a
result. And what a task with an int costs to pickle and load, where nothing goes by
reference: the least of all rounds, as the message is the same.
"""

import multiprocessing
import pickle
import statistics
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import _CallItem
from contextlib import contextmanager
from functools import partial
from multiprocessing import queues
from typing import Any

import numpy as np
import samemap.pools
from harness import (
    Report,
    Timings,
    folder,
    interleave,
    make_memmap,
    run,
    seconds,
    time_calls,
)
from samemap.pools import _patches

MEMMAP_TO_INT, IN_MEMORY, INT_MESSAGE = 2, 10, 1.1
MB = 1_000_000
CALLS = 100

Run = Callable[..., Any]
CONTEXT = multiprocessing.get_context("fork")


def last(array: Any) -> float:
    """A task that needs next to nothing of its array."""
    return float(np.ravel(array)[-1])


def make(count: int) -> np.ndarray:
    return np.ones(count)


@contextmanager
def workers(kind: str) -> Iterator[Run]:
    """Start two workers; give what runs a function in one and waits."""
    if kind == "Pool":
        with CONTEXT.Pool(2) as made:
            yield lambda function, *args: made.apply(function, args)
    else:
        with ProcessPoolExecutor(2, CONTEXT) as executor:
            yield lambda function, *args: executor.submit(function, *args).result()


@contextmanager
def in_force(name: str) -> Iterator[None]:
    """Let this process send as one side does."""
    if name == "samemap":
        samemap.pools.install()
    try:
        yield
    finally:
        samemap.pools.uninstall()


def measure(
    sides: dict[str, Run],
    cases: dict[str, tuple[str, Callable[[], tuple[Any, ...]], int]],
    rounds: int,
) -> Timings:
    """Time of one call, by case: its side, what makes the call, and how many calls."""

    def one(name: str, arguments: Callable[[], tuple[Any, ...]], calls: int) -> float:
        with in_force(name):
            made = [arguments() for _ in range(calls)]
            return seconds(lambda: [sides[name](*args) for args in made]) / calls

    return interleave({case: partial(one, *how) for case, how in cases.items()}, rounds)


def benchmark_calls(
    report: Report, kind: str, sides: dict[str, Run], megabytes: int
) -> None:
    count = megabytes * MB // 8
    with folder() as path:
        memmap = make_memmap(path / "data", (100, count // 100))
        cases = {
            "stock": ("stock", lambda: (last, memmap), 1),
            "samemap": ("samemap", lambda: (last, memmap), CALLS),
            "int": ("samemap", lambda: (last, 5), CALLS),
        }
        timings = measure(sides, cases, report.rounds(15))
    medians = {name: statistics.median(times) for name, times in timings.items()}
    report.add(
        f"{kind}: {megabytes} MB on an np.memmap as argument, against an int",
        timings,
        value=medians["samemap"] / medians["int"],
        at_most=MEMMAP_TO_INT,
        note=f"stock {medians['stock'] / medians['int']:,.0f} times the int",
    )
    for what, arguments, reach in (
        ("argument", lambda: (last, np.ones(count)), IN_MEMORY),
        ("result", lambda: (make, count), None),
    ):
        timings = measure(
            sides, {name: (name, arguments, 1) for name in sides}, report.rounds(9)
        )
        medians = {name: statistics.median(times) for name, times in timings.items()}
        report.add(
            f"{kind}: {megabytes} MB in ordinary memory as {what}",
            timings,
            value=medians["stock"] / medians["samemap"],
            at_least=None if report.quick else reach,
        )


def benchmark_messages(report: Report) -> None:
    task: tuple[Any, ...] = (3, 0, last, (5,), {})
    call = _CallItem(3, last, (5,), {})
    pickler = _patches._ForkingPickler
    samemap.pools.install()
    messages = _patches.current()
    assert messages is not None
    installed = queues._ForkingPickler  # type: ignore[attr-defined]
    dumps: dict[str, dict[str, Callable[[], Any]]] = {
        "Pool": {
            "stock": lambda: pickler.dumps(task),
            "samemap": lambda: messages.task(task)[0],
        },
        "ProcessPoolExecutor": {
            "stock": lambda: pickler.dumps(call),
            "samemap": lambda: installed.dumps(call),
        },
    }
    for kind, both in dumps.items():
        functions = {
            name: partial(lambda dump: pickle.loads(dump()), dump)
            for name, dump in both.items()
        }
        timings = time_calls(functions, report.rounds(101, 11))
        report.add(
            f"{kind}: a task with an int, dumps and loads, minima",
            timings,
            value=min(timings["samemap"]) / min(timings["stock"]),
            at_most=INT_MESSAGE,
        )
    samemap.pools.uninstall()


def benchmark(report: Report) -> None:
    megabytes = 16 if report.quick else 160
    for kind in ("Pool", "ProcessPoolExecutor"):
        with workers(kind) as stock:
            stock(last, 5)
            with in_force("samemap"), workers(kind) as ours:
                ours(last, 5)
                sides = {"stock": stock, "samemap": ours}
                benchmark_calls(report, kind, sides, megabytes)
    benchmark_messages(report)


if __name__ == "__main__":
    run(__file__, __doc__, benchmark)
