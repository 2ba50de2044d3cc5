"""Draw the picture of the README: what arrives in a worker, and how long calls take.

What arrives is found anew, as by ``python -m samemap demo``. The times are those of the
README's table, so that both show one run: draw the picture after the table has changed.
"""

import argparse
import re
import tempfile
from pathlib import Path
from typing import Any

import matplotlib as mpl
from harness import SIDES
from samemap._cli.demo import SWITCHES, run_table

mpl.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

PROJECT = Path(__file__).parents[1]
PICTURE = PROJECT / "docs" / "side-by-side.png"
TITLES = {"joblib": "joblib alone", "samemap": "with samemap"}
COLORS = {"joblib": "#c44e52", "samemap": "#2b6ca3"}
WRONG, RIGHT = "#f6dcdc", "#dbe9f4"

# Cases of the demo, and what they are called in the picture.
CASES = {
    "m[15:45]": "memmap[15:45]",
    "m.T": "memmap.T",
    "m[::-1]": "memmap[::-1]",
    'flat.reshape((5, -1), order="F")': 'reshape(order="F")',
    "m[10:20], set read-only": "a read-only view",
    'mode "c", modified': 'mode "c", modified',
    "file replaced": "file was replaced",
    "file unlinked": "file was removed",
}
WORDS = {
    "other bytes": "other values",
    "crash": "crash",
    "pool broken": "pool breaks",
    "same bytes": "writeable",  # and what is read-only of CASES should not be
}

# The beginnings of rows of the README's table, and what they are called.
TIMES = {
    "`Parallel(n_jobs=2)`, 8,000 tasks with a row each": "8,000 tasks, a row each",
    "12,000 rows of a data cube, loky": "12,000 rows of a data cube",
    "160 MB in ordinary memory to two tasks": "160 MB in memory to two tasks",
    "1 GiB `np.frombuffer(mmap)`": "1 GiB mapped to two processes",
}
SECONDS = {"µs": 1e-6, "ms": 1e-3, "s": 1.0}

Rows = list[dict[str, Any]]


def times_of_the_readme() -> dict[str, dict[str, tuple[float, str]]]:
    """Return seconds and text of both sides, for each of TIMES.

    Raises
    ------
    LookupError
        If the README's table has no such row, or no time in it.
    """
    readme = (PROJECT / "README.md").read_text()
    table = readme.partition("<!-- costs -->")[2].partition("<!-- /costs -->")[0]
    rows = [
        [cell.strip() for cell in line.split("|")[1:]] for line in table.split("\n")
    ]
    found = {}
    for start, label in TIMES.items():
        cells = [row for row in rows if row and row[0].startswith(start)]
        if not cells:
            raise LookupError(f"README.md: no row of the costs begins with {start!r}")
        sides = {}
        for name, cell in zip(SIDES, cells[0][1:3], strict=True):
            time = re.search(r"([\d.]+) (µs|ms|s)\b", cell)
            if time is None:
                raise LookupError(f"README.md: no time in {cell!r}, of {start!r}")
            sides[name] = float(time[1]) * SECONDS[time[2]], time[0]
        found[label] = sides
    return found


def draw_arrivals(axes: Axes, halves: dict[str, Rows]) -> None:
    """Draw a table: a line for each of CASES, a coloured cell for each side."""
    axes.set_title("What arrives in a worker", loc="left", fontweight="bold")
    lines = len(CASES) + 2
    axes.set_xlim(0, 10)
    axes.set_ylim(lines, 0)
    axes.axis("off")
    for i, (name, rows) in enumerate(halves.items()):
        x, by_case = 5.0 + 2.5 * i, {row["name"]: row for row in rows}
        axes.text(
            x + 1.2, 0.5, TITLES[name], ha="center", va="center", color=COLORS[name]
        )
        for line, case in enumerate(CASES, 1):
            row = by_case[case]
            word = "✓ right" if row["right"] else f"✗ {WORDS[row['outcome']]}"
            color = RIGHT if row["right"] else WRONG
            cell = Rectangle((x, line + 0.06), 2.4, 0.88, color=color, linewidth=0)
            axes.add_patch(cell)
            axes.text(x + 1.2, line + 0.5, word, ha="center", va="center")
        right = sum(row["right"] for row in rows)
        axes.text(
            x + 1.2,
            lines - 0.5,
            f"{right} of {len(rows)}",
            ha="center",
            va="center",
            color=COLORS[name],
            fontweight="bold",
        )
    for line, label in enumerate([*CASES.values(), "exact, of all that are tried"], 1):
        axes.text(0, line + 0.5, label, va="center")


def draw_times(axes: Axes, times: dict[str, dict[str, tuple[float, str]]]) -> None:
    """Draw two bars for each of TIMES, of which the longer is as long as all longer."""
    axes.set_title("How long it takes", loc="left", fontweight="bold")
    axes.set_xlim(0, 1.3)
    axes.set_ylim(3.2 * len(times), 0)
    axes.axis("off")
    for i, (label, sides) in enumerate(times.items()):
        top = 3.2 * i
        axes.text(0, top + 0.45, label, va="center")
        longest = max(seconds for seconds, _ in sides.values())
        for j, (name, (seconds, text)) in enumerate(sides.items()):
            y, length = top + 1.3 + 0.85 * j, seconds / longest
            axes.barh(y, length, height=0.75, color=COLORS[name])
            axes.text(length + 0.02, y, text, va="center", color=COLORS[name])


def draw(halves: dict[str, Rows], path: Path) -> None:
    """Draw both halves of the picture."""
    plt.rcParams["font.size"] = 9.5
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(8.8, 3.9), dpi=120, layout="constrained", width_ratios=[1.55, 1]
    )
    draw_arrivals(left, halves)
    draw_times(right, times_of_the_readme())
    figure.savefig(path)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=PICTURE, metavar="FILE")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="samemap-picture-") as folder:
        tables = [run_table(half, Path(folder)) for half in SWITCHES]
    draw(dict(zip(SIDES, tables, strict=True)), options.out)
    print(f"drawn: {options.out}")


if __name__ == "__main__":
    main()
