"""What do large arrays cost where the system refuses what makes them quick?

First without userfaultfd, as Docker's default filter has it: then nothing tells
whether memory has changed but its bytes, and each message compares them all. Then,
for Linux before 6.1, without MADV_COLLAPSE too: no large pages for shared memory. This
process forbids itself the calls, for good, and its workers with it.
"""

from harness import Report, run
from harness.refuse import refuse_collapse, refuse_userfaultfd
from harness.sending import last, time_sending, total
from joblib.externals.loky import get_reusable_executor
from results import fetch, measure

MB = 1_000_000

# Against joblib: an unchanged array in batches, a large array, a large result.
BATCHES, SEND, RESULT = 0.8, 1, 3


def benchmark(report: Report) -> None:
    refuse_userfaultfd()
    megabytes = 16 if report.quick else 160
    tasks = 30 if report.quick else 150
    for batch_size, reach in ((1, None), ("auto", BATCHES)):
        rounds = report.rounds(3, 1)
        first, again = time_sending(
            last, tasks, megabytes * MB, rounds, batch_size=batch_size
        )
        what = (
            f"{tasks} tasks with the same unchanged {megabytes} MB, no userfaultfd, "
            f"batch_size={batch_size!r}"
        )
        report.add(what, first, at_least=None if report.quick else reach)
        report.add(f"{what}, the second call", again)
    # Workers that run already would not be held to it.
    get_reusable_executor().shutdown(wait=True)
    refuse_collapse()
    megabytes = 10 if report.quick else 100
    first, _ = time_sending(total, 2, megabytes * MB, report.rounds(5, 1))
    report.add(
        f"{megabytes} MB to two tasks that sum it, large pages refused",
        first,
        at_least=None if report.quick else SEND,
    )
    timings = measure("loky", megabytes * MB, fetch, report.rounds(3, 1))
    report.add(
        f"result of {megabytes} MB, loky, large pages refused",
        timings,
        at_least=None if report.quick else RESULT,
    )


if __name__ == "__main__":
    run(__file__, __doc__, benchmark)
