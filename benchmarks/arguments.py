"""How long do calls with large arrays in ordinary memory take?

160 MB: to two tasks that sum it, then to 150 tasks that hardly look at it, each with
a message of its own, for which samemap proves that the array is unchanged; joblib
proves nothing. Every round has an array that was never sent before. The array of a
second call in the same ``with Parallel()`` is the first one's. Then 60 fits of a
scikit-learn search on 100 MB, and what they take of shared memory: joblib's dumps or
samemap's memory files.
"""

import statistics
from typing import Any

import numpy as np
import pandas as pd
from harness import SIDES, Report, Timings, in_turn, run, seconds
from harness.memory import SharedPeak
from harness.sending import last, time_sending, total
from sklearn.linear_model import Ridge
from sklearn.model_selection import GridSearchCV

MB = 1_000_000
FOLDS, FEATURES = 3, 20

# Against joblib.
SUM, UNCHANGED, SEARCH = 2.2, 1.5, 1
# MB that a memory file may have more than a dump: to whole blocks.
ROUNDED = 4


def benchmark_sums(report: Report, megabytes: int) -> None:
    for backend in ("loky", "multiprocessing"):
        rounds = report.rounds(5, 1)
        first, _ = time_sending(total, 2, megabytes * MB, rounds, backend=backend)
        report.add(
            f"{megabytes} MB in ordinary memory to two tasks that sum it, {backend}",
            first,
            at_least=None if report.quick else SUM,
        )


def benchmark_unchanged(report: Report, megabytes: int) -> None:
    tasks = 30 if report.quick else 150
    first, again = time_sending(last, tasks, megabytes * MB, report.rounds(5, 1))
    what = f"{tasks} tasks with the same unchanged {megabytes} MB, one a batch"
    report.add(what, first, at_least=None if report.quick else UNCHANGED)
    report.add(f"{what}, the second call", again)


def benchmark_search(report: Report, name: str, features: Any) -> None:
    target = np.arange(len(features), dtype="f8")
    fits = 12 if report.quick else 60
    penalties = {"alpha": np.logspace(-3, 3, fits // FOLDS)}
    timings: Timings = {side: [] for side in SIDES}
    shared: Timings = {side: [] for side in SIDES}
    scores: dict[str, Any] = {}

    def search(rows: int) -> None:
        search = GridSearchCV(Ridge(), penalties, cv=FOLDS, n_jobs=2, refit=False)
        search.fit(features[:rows], target[:rows])
        scores[side] = search.cv_results_["mean_test_score"]

    for side in in_turn(report.rounds(5, 1)):
        search(1000)  # starts the workers
        with SharedPeak() as peak:
            timings[side].append(seconds(lambda: search(len(target))))
        shared[side].append(peak.megabytes)
    same = np.array_equal(scores["joblib"], scores["samemap"])
    measure = f"GridSearchCV, {fits} fits on {name}"
    report.add(
        measure,
        timings,
        at_least=None if report.quick else SEARCH,
        note="same results" if same else "DIFFERENT RESULTS",
    )
    report.add(
        f"{measure}: shared memory",
        shared,
        "MB",
        value=max(shared["samemap"]) - statistics.median(shared["joblib"]),
        value_unit="MB",
        at_most=ROUNDED,
        note="what samemap took more",
    )


def benchmark(report: Report) -> None:
    megabytes = 16 if report.quick else 160
    benchmark_sums(report, megabytes)
    benchmark_unchanged(report, megabytes)
    megabytes = 10 if report.quick else 100
    rows = megabytes * MB // 8 // FEATURES
    table = np.random.default_rng(0).random((rows, FEATURES))
    benchmark_search(report, f"{megabytes} MB in ordinary memory", table)
    benchmark_search(report, f"a DataFrame of {megabytes} MB", pd.DataFrame(table))


if __name__ == "__main__":
    run(__file__, __doc__, benchmark)
