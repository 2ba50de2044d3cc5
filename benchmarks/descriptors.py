"""How many descriptors and maps does a worker need for many views in one task?

Under ``ulimit -n 256``, in a fresh process for each case: 10,000 views of one
memmap, then one memmap of each of 1,000 files. The worker counts what it has open
while it holds them all. In the second case the limit is the worker's alone: before
CPython 3.13, and in np.memmap of every version, an `mmap.mmap` keeps a descriptor.
"""

import argparse
import json
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
from harness import SIDES, Report, folder, make_memmap, run, side
from joblib import Parallel, delayed

LIMIT = 256
TIMEOUT = 120  # seconds


def set_limit(limit: int | None = LIMIT) -> None:
    """Let this process have so many descriptors, or as many as it may."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit or hard, hard))


def use(arrays: list[np.ndarray], place: str) -> tuple[int, int, float]:
    """A task: maps and descriptors on files in `place`, and a sum over the views."""
    total = float(sum(array[0, 0] for array in arrays))
    maps = Path("/proc/self/maps").read_text().count(place)
    names = [
        str(fd.readlink()) for fd in Path("/proc/self/fd").iterdir() if fd.exists()
    ]
    return maps, sum(name.startswith(place) for name in names), total


def one_file(path: Path, count: int) -> list[np.ndarray]:
    memmap = make_memmap(path / "data", (count + 20, 50))
    return [memmap[i : i + 20, ::2] for i in range(count)]


def many_files(path: Path, count: int) -> list[np.ndarray]:
    return [make_memmap(path / f"{i:05}", (20, 50)) for i in range(count)]


CASES = {"one file": one_file, "many files": many_files}


def child(name: str, case: str, count: int) -> None:
    """Send the views of a case to a worker; print what it counted."""
    with folder() as path, side(name):
        set_limit(LIMIT if case == "one file" else None)
        arrays = CASES[case](path, count)
        expected = float(sum(array[0, 0] for array in arrays))
        with Parallel(n_jobs=2) as workers:
            workers([delayed(set_limit)()] * 8)
            try:
                found = workers([delayed(use)(arrays, f"{path}/")] * 2)
            except Exception as error:
                sys.exit(f"{type(error).__name__}: {error}".partition("\n")[0])
        if any(total != expected for *_, total in found):
            sys.exit("other data")
        maps, descriptors, _ = found[0]
        print(json.dumps({"maps": maps, "descriptors": descriptors}))


def ask(name: str, case: str, count: int) -> dict[str, int] | str:
    """Maps and descriptors in the worker, or what went wrong."""
    command = [sys.executable, __file__, "--child", name, case, str(count)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT)
    except subprocess.TimeoutExpired:
        return f"no answer in {TIMEOUT} s"
    if done.returncode:
        return (done.stderr.strip().splitlines() or ["no message"])[-1]
    counts: dict[str, int] = json.loads(done.stdout)
    return counts


def compare(
    report: Report,
    case: str,
    count: int,
    what: str,
    limits: dict[str, int | None],
    note: str = "",
) -> None:
    """Add a row for each kind in `limits`; a limit of None is no reach."""
    found, failed = {}, {}
    for name in SIDES:
        answer = ask(name, case, count)
        if isinstance(answer, str):
            failed[name] = answer
        else:
            found[name] = answer
    for kind, limit in limits.items():
        report.add(
            f"{kind} in the worker, {what}, limit {LIMIT}",
            {name: [float(counts[kind])] for name, counts in found.items()},
            "",
            value=float(found["samemap"][kind]) if "samemap" in found else None,
            value_unit="",
            at_most=limit,
            note=note,
            failed=failed,
        )


def benchmark(report: Report) -> None:
    views, files = (2000, 400) if report.quick else (10_000, 1000)
    what = f"{views:,} views of one memmap"
    compare(report, "one file", views, what, {"maps": 1, "descriptors": 1})
    asked = sys.version_info >= (3, 13)
    compare(
        report,
        "many files",
        files,
        f"memmaps of {files:,} files",
        {"descriptors": 0 if asked else None},
        "" if asked else "asked of CPython 3.13 on",
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--child", nargs=3)
    arguments, _ = parser.parse_known_args()
    if arguments.child:
        side_name, case, count = arguments.child
        child(side_name, case, int(count))
    else:
        run(__file__, __doc__, benchmark)
