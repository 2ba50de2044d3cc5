"""``python -m samemap demo``: stock joblib and samemap, side by side.

Each half runs in a process of its own, see ``demo_half``; this file starts them
again after a crash and prints what they found.
"""

import argparse
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from importlib.metadata import version
from importlib.util import find_spec
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import __version__

if TYPE_CHECKING:
    from argparse import _SubParsersAction

# For all cases of a half together, and for its scores.
TIMEOUT = 240
SWITCHES = {"stock": "0", "samemap": "1"}
START = "import sys; from samemap._cli.demo_half import main; main(*sys.argv[1:])"

Row = dict[str, Any]


class HalfError(RuntimeError):
    """A half of the demo ended with an error of its own, not with a crash."""


def add_command(commands: "_SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add ``demo`` to the command line."""
    parser = commands.add_parser(
        "demo",
        help="show what workers get, without samemap and with it",
        description="Send layouts of a memmap through stock joblib and through "
        "samemap and print side by side what the workers got. Exit status: 0 if "
        "all of samemap's column is right, else 1.",
    )
    parser.set_defaults(function=_main)


def _main(options: argparse.Namespace) -> int:
    return demo()


def demo() -> int:
    """Run both halves and print the comparison.

    Returns
    -------
    int
        0 if every case arrived right through samemap, else 1.
    """
    titles = [f"stock joblib {version('joblib')}", f"samemap {__version__}"]
    print(
        f"{titles[0]} beside {titles[1]}, backend loky, two workers "
        f"(NumPy {np.__version__}, Python {platform.python_version()})\n",
        flush=True,
    )
    with tempfile.TemporaryDirectory(prefix="samemap-demo-") as name:
        folder = Path(name)
        stock, ours = (run_table(half, folder) for half in SWITCHES)
        _print_seed(titles, stock, ours)
        _print_table(titles, stock, ours)
        right = sum(row["right"] for row in ours)
        print(f"\nright with samemap: {right} of {len(ours)}", end="")
        print(f"; with stock joblib: {sum(row['right'] for row in stock)}", flush=True)
        equal = _print_scores(titles, folder)
    return 0 if right == len(ours) and equal else 1


# The halves


def _start(half: str, task: str, folder: Path, report: Path, first: int = 0) -> int:
    """Run one half; return 0, or the negative number of the signal that ended it."""
    folder.mkdir(exist_ok=True)
    arguments = [task, str(folder), str(report), str(first)]
    with (folder / "stderr").open("w+") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-c", START, *arguments],
            env={**os.environ, "SAMEMAP": SWITCHES[half]},
            stdin=subprocess.DEVNULL,
            stdout=stderr,
            stderr=stderr,
            # A group of its own, so that its workers can be ended with it.
            start_new_session=True,
        )
        try:
            status = process.wait(TIMEOUT)
        except subprocess.TimeoutExpired:
            status = -signal.SIGTERM
        finally:
            # After an interrupt too: the group does not get the terminal's.
            if process.returncode != 0:
                _end(process)
        if status > 0:
            stderr.seek(0)
            raise HalfError(f"the {half} half failed:\n{stderr.read()}")
    return status


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a half and its workers, which look for a dead parent only now and then."""
    if sys.platform == "win32":
        process.kill()
    else:
        # Nobody is left where the workers were quicker.
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def run_table(half: str, folder: Path) -> list[Row]:
    """Return what a half found, started again after each case that ends it."""
    report = folder / f"{half}.jsonl"
    report.touch()
    started = 0
    while _start(half, "table", folder / half, report, started) < 0:
        lines = report.read_text().splitlines()
        if len(lines) == 2 * started:
            raise HalfError(f"the {half} half ended before it sent anything")
        if len(lines) % 2:
            with report.open("a") as file:
                crash = {"outcome": "crash of the caller", "right": False}
                print(json.dumps(crash), file=file)
        started = (len(lines) + 1) // 2
    lines = report.read_text().splitlines()
    pairs = zip(lines[::2], lines[1::2], strict=True)
    return [json.loads(sent) | json.loads(got) for sent, got in pairs]


# The report


def _print_seed(titles: list[str], stock: list[Row], ours: list[Row]) -> None:
    print("seed = np.memmap(path, dtype=np.float64), and what each worker saved:\n")
    for rows in zip(stock, ours, strict=True):
        if not rows[0]["values"]:
            continue
        blocks = [[rows[0]["name"], *rows[0]["values"].splitlines()]]
        for title, row in zip(titles, rows, strict=True):
            head = f"{title}: {row['outcome']}"
            blocks.append([head, *row.get("saved", "").splitlines()])
        _print_columns([list(line) for line in zip_longest(*blocks, fillvalue="")])
        print()


def _print_table(titles: list[str], stock: list[Row], ours: list[Row]) -> None:
    print("Flags: C and F contiguous, W writeable, A aligned.\n")
    lines = [["m: (60, 42) float64, r+", "sent", *titles]]
    for left, right in zip(stock, ours, strict=True):
        lines.append([left["name"], left["sent"], _cell(left), _cell(right)])
    _print_columns(lines)


def _cell(row: Row) -> str:
    if "flags" not in row:
        outcome: str = row["outcome"]
        return outcome
    # The flags stand beside; the other differences need their names.
    names = [name for name in row["differing"] if name != "flags"]
    other = f"  other {', '.join(names)}" if names else ""
    return f"{row['outcome']:<11} {row['flags']}{other}"


def _print_columns(lines: list[list[str]]) -> None:
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        cells = zip(line, widths, strict=True)
        print("  ".join(cell.ljust(width) for cell, width in cells).rstrip())


def _print_scores(titles: list[str], folder: Path) -> bool:
    """Print the scores of both halves; return whether samemap's are equal."""
    print("\ncross_val_score(Ridge(), memmap.T, y)")
    if find_spec("sklearn") is None:
        print("left out: scikit-learn is not installed")
        return True
    lines = [["", "n_jobs=1", "n_jobs=2"]]
    equal = []
    for half, title in zip(SWITCHES, titles, strict=True):
        report = folder / f"{half}-scores.json"
        if _start(half, "scores", folder / half, report) < 0:
            lines.append([title, "crash", "crash"])
            equal.append(False)
            continue
        scores = json.loads(report.read_text())
        lines.append([title, *(_in_digits(by_fold) for by_fold in scores)])
        # The same numbers in the same layout: equal to the last bit.
        equal.append(scores[0] == scores[1])
    _print_columns(lines)
    return equal[-1]


def _in_digits(scores: list[float]) -> str:
    return " ".join(f"{score:6.3f}" for score in scores)
