"""Calls of `Parallel` whose tasks are in batches of the size that was asked for.

joblib takes `batch_size` for the most only: near the end of the tasks, and among
those that it dispatches before any result is there, it makes smaller batches.
"""

from joblib import Parallel

N_JOBS = 2


def run_in_batches(pool, batch_size, tasks, **options):
    """Run tasks in batches of exactly `batch_size`, or as joblib does if "auto"."""
    if batch_size != "auto":
        assert len(tasks) % (N_JOBS * batch_size) == 0, "the last would be smaller"
        options["pre_dispatch"] = "all"
    return Parallel(N_JOBS, pool, batch_size=batch_size, **options)(tasks)
