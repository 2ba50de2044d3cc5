"""Draw a curve: microseconds a view over the number of views in a message.

2-D strided views of one memmap, pickled here with the pickler of joblib's
multiprocessing pool and loaded in another process, which maps the file anew for each
message. joblib needs a descriptor for each view, so its line ends where they do.
"""

import argparse
import resource
from collections.abc import Callable
from functools import partial
from pathlib import Path

import matplotlib as mpl
import numpy as np
from harness import (
    SIDES,
    Reader,
    Report,
    Table,
    cpu_seconds,
    folder,
    interleave,
    make_memmap,
    per,
    pool_dumps,
    reducers,
    run,
)

mpl.use("Agg")
from matplotlib import pyplot as plt

ROWS = 1020
COUNTS = (1, 3, 10, 30, 100, 300, 1000, 3000, 10_000, 30_000, 100_000)
COLORS = {"joblib": "#c44e52", "samemap": "#2b6ca3"}
PICTURE = Path(__file__).with_name("curve.png")
QUICK_PICTURE = PICTURE.with_name("curve-quick.png")  # not in the repository


def pickle_and_load(
    views: list[np.ndarray], table: Table, reader: Reader
) -> Callable[[], float]:
    """For `interleave`: both, some times over where they take no time."""
    calls = max(1, 300 // len(views))

    def measure() -> float:
        messages: list[bytes] = []
        pickling = cpu_seconds(lambda: messages.append(pool_dumps(views, table)), calls)
        return pickling + reader.load(messages[0], calls)

    return measure


def draw(lines: dict[str, dict[int, float]], path: Path) -> None:
    """Both lines, in microseconds, each labelled where it ends."""
    figure, axes = plt.subplots(figsize=(6.4, 3.8), dpi=110, layout="constrained")
    for name, line in lines.items():
        counts, times = list(line), [time * 1e6 for time in line.values()]
        axes.plot(counts, times, "o-", color=COLORS[name], linewidth=2, markersize=4)
        axes.annotate(
            name,
            (counts[-1], times[-1]),
            xytext=(8, 0),
            textcoords="offset points",
            va="center",
            color=COLORS[name],
            fontsize=12,
            fontweight="bold",
        )
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlim(0.8, 600_000)
    ticks = [0.5, 1, 2, 5, 10, 20, 50, 100]
    axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    ticks = [1, 10, 100, 1000, 10_000, 100_000]
    axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlabel("views of one memmap in a message")
    axes.set_ylabel("µs a view, pickle + load")
    figure.savefig(path)
    plt.close(figure)


def benchmark(report: Report, out: Path | None) -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    lines: dict[str, dict[int, float]] = {name: {} for name in SIDES}
    tables = {name: reducers(name) for name in SIDES}
    with folder() as path, Reader() as reader:
        memmap = make_memmap(path / "data", (ROWS, 50))
        for count in COUNTS[:7] if report.quick else COUNTS:
            starts = [i % (ROWS - 20) for i in range(count)]
            views = [memmap[i : i + 20, ::2] for i in starts]
            measures = {
                name: pickle_and_load(views, table, reader)
                for name, table in tables.items()
                if name == "samemap" or count < hard - 100
            }
            timings = per(count, interleave(measures, report.rounds(15)))
            row = report.add(f"pickle + load a view, {count:,} in a message", timings)
            for name, summary in row.sides.items():
                lines[name][count] = summary.median
    out = out or (QUICK_PICTURE if report.quick else PICTURE)
    draw(lines, out)
    print(f"\ndrawn: {out}")


if __name__ == "__main__":
    own = argparse.ArgumentParser(add_help=False)
    own.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        help=f"the picture; {PICTURE.name} here, or {QUICK_PICTURE.name} with --quick",
    )
    options, _ = own.parse_known_args()
    run(__file__, __doc__, partial(benchmark, out=options.out), own)
