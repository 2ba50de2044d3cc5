"""Calls of `Parallel` with one large array in ordinary memory."""

from collections.abc import Callable
from functools import partial

import numpy as np
import numpy.typing as npt
from joblib import Parallel, delayed

from .sides import in_turn
from .timing import Timings, seconds

CALLS = 3  # a round

Array = npt.NDArray[np.float64]


def total(array: Array) -> float:
    """A task that reads all of its array."""
    return float(array.sum())


def last(array: Array) -> float:
    """A task that needs next to nothing of it."""
    return float(array[-1])


def time_sending(
    task: Callable[[Array], float],
    tasks: int,
    nbytes: int,
    rounds: int,
    *,
    backend: str = "loky",
    batch_size: int | str = 1,
) -> tuple[Timings, Timings]:
    """Seconds of a call with a new array, and of the next with the same.

    The sides in turn, in warm pools. The second call is made in the same ``with``
    block, where joblib still has the file that it dumped.
    """
    first: Timings = {"joblib": [], "samemap": []}
    again: Timings = {"joblib": [], "samemap": []}
    for name in in_turn(rounds):
        for call in range(CALLS + 1):
            with Parallel(2, backend, batch_size=batch_size) as pool:
                # Starts the workers of multiprocessing; of loky the round's first.
                pool(delayed(last)(np.zeros(1)) for _ in range(8))
                jobs = [delayed(task)(np.ones(nbytes // 8))] * tasks
                for timings in (first, again):
                    elapsed = seconds(partial(pool, jobs))
                    if call:
                        timings[name].append(elapsed)
    return first, again
