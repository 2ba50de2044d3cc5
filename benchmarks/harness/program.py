"""A benchmark as a program."""

import argparse
import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from .machine import machine, machine_text
from .report import Report


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of every benchmark and of all together."""
    parser.add_argument("--json", metavar="FILE", help="write the results there too")
    parser.add_argument("--quick", action="store_true", help="fewer rounds, less data")


def run(
    path: str,
    question: str | None,
    benchmark: Callable[[Report], None],
    own: argparse.ArgumentParser | None = None,
) -> None:
    """Run one benchmark as a program.

    Parameters
    ----------
    path : str
        ``__file__`` of the benchmark.
    question : str
        Its docstring.
    benchmark : callable
        Takes a `Report`.
    own : argparse.ArgumentParser, optional
        Has the options of this benchmark alone, which its file has read already.
    """
    name, question = Path(path).name, (question or "").strip()
    parser = argparse.ArgumentParser(
        description=question,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        parents=[own] if own else [],
    )
    add_options(parser)
    options = parser.parse_args()
    print(f"{name}: {question}\n\n{machine_text(machine())}")
    report = Report(options.quick)
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
