"""Functions as tasks: what goes with them, and what stays."""

import functools
import threading

import numpy as np
from joblib import Parallel, delayed
from support.batches import run_in_batches


def counted(function):
    """Decorate with a closure that no pickler takes, around a name that is taken."""
    lock = threading.Lock()

    @functools.wraps(function)
    def inner(*args):
        with lock:
            return function(*args)

    return inner


@counted
def total(array):
    return array.sum()


def total_with_lock(array, lock=threading.Lock()):  # noqa: B008
    with lock:
        return array.sum()


def test_function_found_by_name_goes_as_its_name(backend):
    """What its closure and defaults hold isn't pickled: a lock can't be."""
    array = np.arange(10.0)
    for function in (total, total_with_lock):
        for batch_size in (1, 2):
            tasks = [delayed(function)(array) for _ in range(4)]
            assert run_in_batches(backend, batch_size, tasks) == [45.0] * 4


class Adder:
    def add(self, array):
        return array.sum()


def renamed(self, array):
    return -array.sum()


renamed.__name__ = renamed.__qualname__ = "subtract"
Adder.subtract = renamed


def test_method_goes_as_its_object_and_name(backend):
    """Its function is looked up where it arrives: no pickler would find this one."""
    tasks = [delayed(Adder().subtract)(np.arange(10.0)) for _ in range(2)]
    assert Parallel(2, backend)(tasks) == [-45.0] * 2
