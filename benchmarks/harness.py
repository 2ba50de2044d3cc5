"""What the benchmarks share: sides, interleaved timing, reports.

A benchmark measures joblib and samemap in turn, in one run and on the same data,
and adds a row for each thing it measures. A row has the median of every side, its
quartiles, and the value that the reach is about: a ratio of medians, or a number.
"""

import argparse
import io
import json
import mmap
import multiprocessing
import os
import pickle
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import joblib
import joblib.pool
import numpy as np
import samemap
from joblib.externals.loky.backend.reduction import get_loky_pickler

SIDES = ("joblib", "samemap")
ROUND = 0.005  # seconds
Table = dict[type, Callable[[Any], Any]]
Timings = dict[str, list[float]]


# Sides


@contextmanager
def side(name: str) -> Iterator[None]:
    """Let `Parallel` use the reducers of one side.

    loky starts a new executor on every change: call `Parallel` once before timing.
    """
    with samemap.enabled() if name == "samemap" else samemap.disabled():
        yield


def reducers(name: str, **options: Any) -> Table:
    """The reducers that a pool of one side gives to its pickler for tasks."""
    options.setdefault("temp_folder_resolver", tempfile.gettempdir)
    with side(name):
        return joblib.pool.get_memmapping_reducers(**options)[0]


def pool_dumps(obj: Any, table: Table) -> bytes:
    """Pickle as joblib's multiprocessing pool does."""
    file = io.BytesIO()
    joblib.pool.CustomizablePickler(file, table).dump(obj)
    return file.getvalue()


def loky_dumps(obj: Any, table: Table) -> bytes:
    """Pickle as joblib's loky executor does."""
    file = io.BytesIO()
    get_loky_pickler()(file, reducers=table).dump(obj)
    return file.getvalue()


# Data


@contextmanager
def folder(parent: str | None = None) -> Iterator[Path]:
    """A temporary directory, removed at the end."""
    with tempfile.TemporaryDirectory(prefix="samemap-bench-", dir=parent) as path:
        yield Path(path)


def make_memmap(path: Path, shape: tuple[int, ...], dtype: str = "f8") -> np.memmap:
    """Write random data to a new file and map it read-only, by a string."""
    rng = np.random.default_rng(0)
    array = np.memmap(str(path), dtype, "w+", shape=shape)
    for part in array:
        part[...] = rng.random(part.shape, "f4")
    array.flush()
    del array
    return np.memmap(str(path), dtype, "r", shape=shape)


def by_path(memmap: np.memmap) -> np.memmap:
    """The same file mapped by a `Path`.

    np.memmap keeps what it was given, and joblib gives it to np.memmap again in the
    worker, for each view. A `Path` is resolved there once more, in Python.
    """
    name = Path(memmap.filename)
    return np.memmap(name, memmap.dtype, "r", shape=memmap.shape)


# Timing


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


def interleave(measures: dict[str, Callable[[], float]], rounds: int) -> Timings:
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


def time_calls(functions: dict[str, Callable[[], Any]], rounds: int) -> Timings:
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


# Another process


class Reader:
    """A process that loads one message after the other, and lets each go.

    So every load maps the files anew. It also times what no side can do without: to
    open, check, map and close a file.
    """

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=serve, args=(theirs,), daemon=True)
        self._process.start()
        theirs.close()

    def __enter__(self) -> "Reader":
        return self

    def __exit__(self, *_: object) -> None:
        self._pipe.close()
        self._process.join()

    def send(self, message: bytes, calls: int = 1) -> None:
        """Send a message, to be loaded `calls` times."""
        self._pipe.send((message, calls))

    def receive(self) -> float:
        """Return the CPU time that it took to load the message once."""
        return self._pipe.recv()

    def load(self, message: bytes, calls: int = 1) -> float:
        """Send and receive."""
        self.send(message, calls)
        return self.receive()

    def stopwatch(self, message: bytes) -> Callable[[], float]:
        """For `interleave`: a round takes about `ROUND` seconds."""
        calls = 1
        while self.load(message, calls) * calls < ROUND / 2:
            calls *= 2
        return lambda: self.load(message, calls)

    def map(self, path: str) -> float:
        """Return the CPU time that it takes there to map all of a file."""
        self._pipe.send((path, 1))
        return self.receive()


def serve(pipe: Any) -> None:
    """Answer a `Reader`."""
    while True:
        try:
            message, calls = pipe.recv()
        except EOFError:
            return
        load = map_file if isinstance(message, str) else pickle.loads
        pipe.send(cpu_seconds(lambda f=load, m=message: f(m), calls))


def map_file(path: str) -> mmap.mmap:
    """The least that must be done for an array on a file."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    os.fstat(fd)
    result = mmap.mmap(fd, 0, prot=mmap.PROT_READ)
    os.close(fd)
    return result


# Reports


@dataclass
class Summary:
    """Median and quartiles of the rounds of one side."""

    median: float
    lower: float
    upper: float
    rounds: int

    @classmethod
    def of(cls, values: list[float]) -> "Summary":
        if len(values) < 2:
            return cls(values[0], values[0], values[0], 1)
        lower, median, upper = statistics.quantiles(values, method="inclusive")
        return cls(median, lower, upper, len(values))


@dataclass
class Row:
    """One thing that was measured.

    `ratio` is joblib / samemap, `value` what the reach is about; `met` is None where
    nothing was asked for.
    """

    measure: str
    unit: str
    sides: dict[str, Summary]
    ratio: float | None
    value: float | None
    value_unit: str
    reach: str
    met: bool | None
    note: str = ""

    def value_text(self) -> str:
        return "" if self.value is None else quantity(self.value, self.value_unit)

    def met_text(self) -> str:
        return {True: "met", False: "NOT MET", None: ""}[self.met]


def quantity(value: float, unit: str) -> str:
    """A number with its unit, three digits."""
    if unit == "s":
        for name, factor in (("s", 1), ("ms", 1e3), ("µs", 1e6), ("ns", 1e9)):
            if value * factor >= 1 or name == "ns":
                return f"{digits(value * factor)} {name}"
    return f"{digits(value)}x" if unit == "x" else f"{digits(value)} {unit}".rstrip()


def digits(value: float) -> str:
    """Three digits, and no exponent."""
    if value == round(value) or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.2f}" if abs(value) < 10 else f"{value:.1f}"


class Report:
    """Rows of one benchmark, printed as they come."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.quick: bool = options.quick
        self.rows: list[Row] = []

    def rounds(self, full: int, quick: int = 3) -> int:
        """How often to measure."""
        return quick if self.quick else full

    def add(
        self,
        measure: str,
        timings: Timings,
        unit: str = "s",
        *,
        value: float | None = None,
        value_unit: str = "x",
        at_least: float | None = None,
        at_most: float | None = None,
        note: str = "",
    ) -> Row:
        """Add a row and print it.

        Parameters
        ----------
        measure : str
        timings : dict
            Rounds by side.
        unit : str
            Of the rounds.
        value : float, optional
            What the reach is about; by default the ratio joblib / samemap.
        value_unit : str
        at_least, at_most : float, optional
            The reach.
        note : str
            More about the value.
        """
        sides = {name: Summary.of(values) for name, values in timings.items()}
        ratio = None
        if set(SIDES) <= set(sides) and sides["samemap"].median:
            ratio = sides["joblib"].median / sides["samemap"].median
        value = ratio if value is None else value
        reach, met = "", None
        if at_least is not None:
            reach = f"at least {quantity(at_least, value_unit)}"
            met = value is not None and value >= at_least
        elif at_most is not None:
            reach = f"at most {quantity(at_most, value_unit)}"
            met = value is not None and value <= at_most
        row = Row(measure, unit, sides, ratio, value, value_unit, reach, met, note)
        self.rows.append(row)
        print_row(row)
        return row


def print_row(row: Row) -> None:
    print(f"\n{row.measure}")
    for name, s in row.sides.items():
        spread = f"{quantity(s.lower, row.unit)} to {quantity(s.upper, row.unit)}"
        counted = f"quartiles {spread}, {s.rounds} rounds" if s.rounds > 1 else ""
        print(f"  {name:<12}{quantity(s.median, row.unit):>12}   {counted}".rstrip())
    reach = f"   reach: {row.reach}: {row.met_text()}" if row.reach else ""
    if row.ratio is not None:
        about = reach if row.value == row.ratio else ""
        print(f"  {'ratio':<12}{quantity(row.ratio, 'x'):>12}{about}")
    if row.value is not None and row.value != row.ratio:
        print(f"  {'value':<12}{row.value_text():>12}{reach}")
    if row.note:
        print(f"  {row.note}")


def cpu_model() -> str:
    """Name of the processor, where the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if "model name" in line]
    return names[0] if names else platform.processor()


def machine() -> dict[str, Any]:
    """Where this runs, and on what versions."""
    return {
        "cpu": cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "kernel": f"{platform.system()} {platform.release()}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "numpy": np.__version__,
        "joblib": joblib.__version__,
        "samemap": samemap.__version__,
    }


def machine_text(found: dict[str, Any]) -> str:
    return (
        f"{found['python']}, NumPy {found['numpy']}, joblib {found['joblib']}, "
        f"samemap {found['samemap']}; {found['cpu']}, {found['cores']} cores, "
        f"{found['kernel']}"
    )


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of every benchmark and of all together."""
    parser.add_argument("--json", metavar="FILE", help="write the results there too")
    parser.add_argument("--quick", action="store_true", help="fewer rounds, less data")


def run(path: str, question: str | None, benchmark: Callable[[Report], None]) -> None:
    """Run one benchmark as a program.

    Parameters
    ----------
    path : str
        ``__file__`` of the benchmark.
    question : str
        Its docstring.
    benchmark : callable
        Takes a `Report`.
    """
    name, question = Path(path).name, (question or "").strip()
    parser = argparse.ArgumentParser(
        description=question, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_options(parser)
    options = parser.parse_args()
    print(f"{name}: {question}\n\n{machine_text(machine())}")
    report = Report(options)
    benchmark(report)
    if options.json:
        result = {
            "benchmark": name,
            "question": question.partition("\n\n")[0].replace("\n", " "),
            "quick": options.quick,
            "machine": machine(),
            "rows": [asdict(row) for row in report.rows],
        }
        Path(options.json).write_text(json.dumps(result, indent=1) + "\n")
