"""Run all benchmarks, each as a process of its own, and print one table.

The table has the rows of which the project has asked something, and the rest of those
that compare both sides. A benchmark that fails does not stop the others; missing a
reach is no failure.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from harness import SIDES, Row, Summary, add_options, machine_text, quantity

BENCHMARKS = (
    "views",
    "one_view",
    "tasks",
    "descriptors",
    "growth",
    "large",
    "small",
    "touch",
    "export",
    "arguments",
    "results",
    "refused",
    "importing",
    "worker_memory",
    "estimators",
    "cube",
)
HEAD = ("benchmark", "measure", "joblib", "samemap", "ratio", "reach", "")
Result = dict[str, Any]


def run(name: str, quick: bool, folder: str) -> Result | None:
    """Run one benchmark; None if it failed."""
    here = Path(__file__).parent
    file = Path(folder, f"{name}.json")
    command = [sys.executable, str(here / f"{name}.py"), "--json", str(file)]
    status = subprocess.run(command + ["--quick"] * quick).returncode
    if status:
        print(f"{name}.py failed with status {status}", file=sys.stderr)
        return None
    result: Result = json.loads(file.read_text())
    return result


def rows_of(result: Result) -> list[Row]:
    rows = []
    for found in result["rows"]:
        sides = {name: Summary(**summary) for name, summary in found["sides"].items()}
        rows.append(Row(**{**found, "sides": sides}))
    return rows


def cells(benchmark: str, row: Row) -> tuple[str, ...]:
    """One line of the table."""
    texts = {name: quantity(s.median, row.unit) for name, s in row.sides.items()}
    texts.update(dict.fromkeys(row.failed, "fails"))
    joblib, samemap = (texts.get(name, "") for name in SIDES)
    if not joblib and not samemap:  # one side, by size
        first, *_, last = texts.values()
        samemap = f"{first} to {last}"
    ratio = row.value_text() if row.value_unit == "x" else ""
    if row.ratio is not None:
        ratio = quantity(row.ratio, "x")
    name = benchmark.removesuffix(".py")
    return name, row.measure, joblib, samemap, ratio, row.reach, row.met_text()


def print_table(results: list[Result]) -> None:
    lines: list[tuple[str, ...]] = [HEAD]
    for result in results:
        for row in rows_of(result):
            if row.reach or row.ratio is not None:
                lines.append(cells(result["benchmark"], row))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    lines.insert(1, tuple("-" * width for width in widths))
    for line in lines:
        padded = [cell.ljust(width) for cell, width in zip(line, widths, strict=True)]
        print(f"| {' | '.join(padded)} |")
    asked = [row.met for result in results for row in rows_of(result) if row.reach]
    print(f"\n{sum(filter(None, asked))} of {len(asked)} met")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_options(parser)
    options = parser.parse_args()
    start, results = time.monotonic(), []
    with tempfile.TemporaryDirectory(prefix="samemap-bench-") as folder:
        for name in BENCHMARKS:
            result = run(name, options.quick, folder)
            if result is not None:
                results.append(result)
            print(f"\n{'-' * 80}\n", flush=True)
    if results:
        print_table(results)
        print(machine_text(results[0]["machine"]))
        print(f"{time.monotonic() - start:.0f} s{', --quick' * options.quick}")
    if options.json:
        Path(options.json).write_text(json.dumps(results, indent=1) + "\n")
    return 0 if len(results) == len(BENCHMARKS) else 1


if __name__ == "__main__":
    sys.exit(main())
