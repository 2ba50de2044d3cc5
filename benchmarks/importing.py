"""How long does ``import samemap`` take in a program that has joblib and NumPy?

Each round is a fresh interpreter, and its CPU time; beside it, what joblib itself takes
where NumPy is loaded.
"""

import statistics
import subprocess
import sys

from harness import Report, interleave, run

REACH = 0.010  # seconds

SCRIPT = """\
import sys, time
for module in sys.argv[1:-1]:
    __import__(module)
start = time.thread_time()
__import__(sys.argv[-1])
print(time.thread_time() - start)
"""


def time_import(*modules: str) -> float:
    """CPU time that the last of the modules takes after the others."""
    command = [sys.executable, "-c", SCRIPT, *modules]
    return float(subprocess.run(command, check=True, capture_output=True).stdout)


def benchmark(report: Report) -> None:
    timings = interleave(
        {
            "joblib": lambda: time_import("numpy", "joblib"),
            "samemap": lambda: time_import("numpy", "joblib", "samemap"),
        },
        report.rounds(31, 5),
    )
    report.add(
        "import, what it needs being loaded",
        timings,
        value=statistics.median(timings["samemap"]),
        value_unit="s",
        at_most=REACH,
    )


if __name__ == "__main__":
    run(__file__, __doc__, benchmark)
