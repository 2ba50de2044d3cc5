"""Time of calls, the sides in turn."""

import time
from collections.abc import Callable, Mapping
from typing import Any

ROUND = 0.005  # seconds
Timings = dict[str, list[float]]


def cpu_seconds(function: Callable[[], Any], calls: int = 1) -> float:
    """Mean CPU time of one call, without that in which its result dies.

    For what runs in one thread and waits for nothing. On a quiet machine it is the
    time on the clock; on a busy one the clock would also count the pauses, of which
    the side that takes longer has more.
    """
    total = 0.0
    for _ in range(calls):
        start = time.thread_time()
        result = function()
        total += time.thread_time() - start
        del result
    return total / calls


def seconds(function: Callable[[], Any]) -> float:
    """Time of one call on the clock."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def enough_calls(function: Callable[[], Any]) -> int:
    """How many calls fill one round."""
    calls = 1
    while calls < 1 << 16 and cpu_seconds(function, calls) * calls < ROUND / 2:
        calls *= 2
    return calls


def interleave(measures: Mapping[str, Callable[[], float]], rounds: int) -> Timings:
    """Take all measures in turn, `rounds` times, in changing order.

    Each one is taken once more at the start, and that is not counted.
    """
    timings: Timings = {name: [] for name in measures}
    order = list(measures.items())
    for _, measure in order:
        measure()
    for _ in range(rounds):
        for name, measure in order:
            timings[name].append(measure())
        order.reverse()
    return timings


def time_calls(functions: Mapping[str, Callable[[], Any]], rounds: int) -> Timings:
    """CPU time of functions in turn, `rounds` times.

    A round of each takes about `ROUND` seconds, or one call if that takes longer:
    so the quicker side is not measured on the cold caches that the other leaves.
    """

    def stopwatch(function: Callable[[], Any]) -> Callable[[], float]:
        calls = enough_calls(function)
        return lambda: cpu_seconds(function, calls)

    return interleave({k: stopwatch(f) for k, f in functions.items()}, rounds)


def per(count: int, timings: Timings) -> Timings:
    """The same for one of `count`."""
    return {name: [t / count for t in times] for name, times in timings.items()}
