"""What the benchmarks share: sides, data, interleaved timing, reports.

A benchmark measures joblib and samemap in turn, in one run and on the same data,
and adds a row for each thing it measures.
"""

from .data import by_path, folder, make_memmap
from .machine import machine_text
from .program import add_options, run
from .reader import Reader
from .report import Report, Row, Summary, quantity
from .sides import SIDES, Table, in_turn, loky_dumps, pool_dumps, reducers, side
from .timing import (
    Timings,
    cpu_seconds,
    interleave,
    per,
    seconds,
    time_calls,
)

__all__ = [
    "SIDES",
    "Reader",
    "Report",
    "Row",
    "Summary",
    "Table",
    "Timings",
    "add_options",
    "by_path",
    "cpu_seconds",
    "folder",
    "in_turn",
    "interleave",
    "loky_dumps",
    "machine_text",
    "make_memmap",
    "per",
    "pool_dumps",
    "quantity",
    "reducers",
    "run",
    "seconds",
    "side",
    "time_calls",
]
