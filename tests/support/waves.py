"""Two workers that are at work at the same time, and meet in memory they share."""

import os
import time


def wave(mine, theirs):
    """Write, and wait until the other worker, at work now, has done so too."""
    mine[...] = os.getpid()
    end = time.monotonic() + 60
    while not theirs.all() and time.monotonic() < end:
        os.sched_yield()
    return os.getpid(), theirs.tolist()


def check_that_workers_meet(send, array):
    """Each of two workers sees what the other writes into 60 zeros."""
    even, odd = array[::-2], array.reshape(30, 2).T[0]
    (first, seen_by_first), (second, seen_by_second) = send(
        wave, (even, odd), (odd, even), batch_size=1
    )
    assert first != second
    assert seen_by_first == [second] * 30
    assert seen_by_second == [first] * 30
