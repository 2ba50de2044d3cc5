"""What do small arrays in ordinary memory cost?

They travel by value, 1,000 of them (100 float64 each) in one list, and one alone,
with the pickler of joblib's loky executor; loaded in the same process.
"""

import pickle
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
from harness import (
    SIDES,
    Report,
    loky_dumps,
    per,
    pool_dumps,
    reducers,
    run,
    time_calls,
)

COUNT = 1000
IN_A_LIST, ALONE = 3, 1


def benchmark(report: Report) -> None:
    tables = {name: reducers(name) for name in SIDES}
    rng = np.random.default_rng(0)
    arrays = [rng.random(100) for _ in range(COUNT)]

    def compare(
        measure: str, obj: Any, dumps: Callable[..., bytes], at_least: float | None
    ) -> None:
        count = len(obj) if isinstance(obj, list) else 1

        def there_and_back(name: str) -> object:
            return pickle.loads(dumps(obj, tables[name]))

        both = {s: partial(there_and_back, s) for s in SIDES}
        times = per(count, time_calls(both, report.rounds(41, 7)))
        report.add(f"{measure}, pickle + load", times, at_least=at_least)
        messages = {s: dumps(obj, tables[s]) for s in SIDES}
        there = {s: partial(dumps, obj, tables[s]) for s in SIDES}
        back = {s: partial(pickle.loads, messages[s]) for s in SIDES}
        verbs: dict[str, Mapping[str, Callable[[], Any]]]
        verbs = {"pickle": there, "load": back}
        for verb, functions in verbs.items():
            times = per(count, time_calls(functions, report.rounds(21, 5)))
            report.add(f"{measure}, {verb}", times)

    one = f"one of {COUNT:,} small arrays in a list"
    compare(f"{one}, loky's pickler", arrays, loky_dumps, IN_A_LIST)
    compare("one small array alone, loky's pickler", arrays[0], loky_dumps, ALONE)
    compare("one small array alone, the pool's pickler", arrays[0], pool_dumps, None)


if __name__ == "__main__":
    run(__file__, __doc__, benchmark)
