"""What does one view cost alone, pickled here and loaded in another process?

Each message maps the file anew, as the reader lets go of every array at once: to
open, check, map and close the file is a floor that no side can do without. The way
through the pipe is not counted.
"""

from collections.abc import Callable
from functools import partial

import numpy as np
from harness import (
    SIDES,
    Reader,
    Report,
    Timings,
    cpu_seconds,
    folder,
    interleave,
    make_memmap,
    pool_dumps,
    reducers,
    run,
)

REACH = 2.2
Parts = dict[str, Timings]


def benchmark(report: Report) -> None:
    tables = {name: reducers(name) for name in SIDES}
    with folder() as path, Reader() as reader:
        memmap = make_memmap(path / "data", (1000, 50))
        views = {"2-D strided": memmap[100:200, ::2], "all of it": memmap}

        def pickle_and_load(name: str, view: np.ndarray, parts: Parts) -> float:
            messages: list[bytes] = []
            pickling = cpu_seconds(
                lambda: messages.append(pool_dumps(view, tables[name]))
            )
            loading = reader.load(messages[0])
            parts["pickle"][name].append(pickling)
            parts["load"][name].append(loading)
            return pickling + loading

        for name, view in views.items():
            parts: Parts = {p: {s: [] for s in SIDES} for p in ("pickle", "load")}
            measures: dict[str, Callable[[], float]]
            measures = {s: partial(pickle_and_load, s, view, parts) for s in SIDES}
            measures["the floor"] = partial(reader.map, str(memmap.filename))
            report.add(
                f"one view ({name}), pickle + load",
                interleave(measures, report.rounds(2000, 200)),
                at_least=REACH if name == "2-D strided" else None,
            )
            for part, timings in parts.items():
                counted = {s: times[1:] for s, times in timings.items()}
                report.add(f"one view ({name}), {part}", counted)


if __name__ == "__main__":
    run(__file__, __doc__, benchmark)
