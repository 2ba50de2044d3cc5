"""One half of the demo, in a process of its own: stock joblib, or samemap.

The environment decides which: ``SAMEMAP=0`` leaves joblib as it is. Every case is
written to the report before it is sent, so that a crash shows where it was.
"""

import io
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from joblib import Parallel, delayed
from numpy.lib.stride_tricks import sliding_window_view

from .. import SamemapError
from .layouts import Array, Traits, views_of

# Per case; the first one starts the workers.
TIMEOUT = 20


class Case(NamedTuple):
    """One row of the table."""

    name: str
    array: Array
    # The file is not what it was: a samemap error is an answer as well.
    may_refuse: bool = False
    # Its values are printed, not only compared.
    shown: bool = False


def cases(folder: Path) -> Iterator[Case]:
    """Yield the rows of the table, each with the files it needs."""
    path = folder / "seed.bin"
    np.arange(15.0).tofile(path)
    seed = np.memmap(path, dtype=np.float64, mode="r")
    rows, columns = seed.reshape(5, 3), seed.reshape((5, 3), order="F")
    yield Case("seed.reshape(5, 3)", rows, shown=True)
    yield Case('seed.reshape((5, 3), order="F")', columns, shown=True)

    path = folder / "matrix.bin"
    np.random.default_rng(0).standard_normal((60, 42)).tofile(path)
    m = np.memmap(path, dtype=np.float64, mode="r+", shape=(60, 42))
    for name, view in views_of(m):
        yield Case(name, view)
    yield Case("sliding_window_view(m[5], 7)", sliding_window_view(m[5], 7))
    yield Case("m[3, 4, ...]", m[3, 4, ...])
    frozen = m[10:20]
    frozen.flags.writeable = False
    yield Case("m[10:20], set read-only", frozen)
    record = np.dtype([("id", "u1"), ("x", "f8")])
    records = np.memmap(path, dtype=record, mode="r", shape=(1000,))
    yield Case('records["x"], packed', records["x"])
    waves = np.memmap(path, dtype=np.complex128, mode="r", offset=16, shape=(9, 7))
    yield Case("complex.imag.T", waves.imag.T)
    yield from _odd_files(folder)


def _odd_files(folder: Path) -> Iterator[Case]:
    """Yield maps that no longer say what their file says."""
    ones = np.ones((30, 20))
    path = folder / "copy.bin"
    ones.tofile(path)
    private = np.memmap(path, dtype=np.float64, mode="c", shape=ones.shape)
    private[3:5] = 7.0
    yield Case('mode "c", modified', private)

    path = folder / "replaced.bin"
    ones.tofile(path)
    old = np.memmap(path, dtype=np.float64, mode="r", shape=ones.shape)
    (ones * 2).tofile(folder / "new.bin")
    os.replace(folder / "new.bin", path)
    yield Case("file replaced", old, may_refuse=True)

    path = folder / "unlinked.bin"
    ones.tofile(path)
    gone = np.memmap(path, dtype=np.float64, mode="r", shape=ones.shape)
    path.unlink()
    yield Case("file unlinked", gone, may_refuse=True)

    with tempfile.TemporaryFile(dir=folder) as file:
        file.write(ones.tobytes())
        file.flush()
        nameless = np.memmap(file, dtype=np.float64, mode="r", shape=ones.shape)
        yield Case("a TemporaryFile", nameless, may_refuse=True)


def save(path: Path, array: Array) -> Traits:
    """In the worker: save what arrived, as the seed case does."""
    np.save(path, array)
    return Traits.of(array)


def send(case: Case, folder: Path) -> dict[str, Any]:
    """Send a case to two workers and say what they got."""
    expected = io.BytesIO()
    np.save(expected, case.array)
    paths = [folder / "worker-0.npy", folder / "worker-1.npy"]
    try:
        arrived: list[Traits] = Parallel(n_jobs=2, timeout=TIMEOUT)(
            delayed(save)(path, case.array) for path in paths
        )
    except Exception as error:
        # The answer of this half, to be shown; the next case gets new workers.
        return {
            "outcome": _in_words(error),
            "right": case.may_refuse and isinstance(error, SamemapError),
        }
    same = all(path.read_bytes() == expected.getvalue() for path in paths)
    names = Traits.of(case.array).differing(arrived[0])
    return {
        "outcome": "same bytes" if same else "other bytes",
        "flags": arrived[0].flags,
        "differing": names,
        "right": same and not names and arrived[0] == arrived[1],
        "saved": str(np.load(paths[0])) if case.shown else "",
    }


def _in_words(error: Exception) -> str:
    if isinstance(error, SamemapError):
        return type(error).__name__
    if type(error).__name__ == "TerminatedWorkerError":
        return "crash"
    if "un-serialize" in str(error):
        # In the worker, before the task: to joblib, the end of the pool.
        return "pool broken"
    return type(error).__name__


def table(folder: Path, report: Path, first: int) -> None:
    """Send the cases from number `first` on; append two lines a case."""
    with report.open("a") as lines:
        for case in islice(cases(folder), first, None):
            values = str(case.array) if case.shown else ""
            flags = Traits.of(case.array).flags
            sent = {"name": case.name, "sent": flags, "values": values}
            print(json.dumps(sent), file=lines, flush=True)
            print(json.dumps(send(case, folder)), file=lines, flush=True)


def scores(folder: Path, report: Path) -> None:
    """Write the scores of a transposed memmap, for one job and for two."""
    from sklearn.linear_model import Ridge
    from sklearn.model_selection import cross_val_score

    generator = np.random.default_rng(0)
    path = folder / "features.bin"
    generator.standard_normal((8, 200)).tofile(path)
    features = np.memmap(path, dtype=np.float64, mode="r", shape=(8, 200)).T
    target = features @ np.arange(1.0, 9.0) + 0.1 * generator.standard_normal(200)
    by_jobs = [
        cross_val_score(Ridge(), features, target, n_jobs=n_jobs).tolist()
        for n_jobs in (1, 2)
    ]
    report.write_text(json.dumps(by_jobs))


def main(task: str, folder: str, report: str, first: str) -> None:
    """Run one task of this half; called by a ``python -c`` of the demo."""
    if sys.platform != "win32":
        import resource

        # Workers of the stock half crash, and each would leave a core file.
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if task == "scores":
        scores(Path(folder), Path(report))
    else:
        table(Path(folder), Path(report), int(first))
