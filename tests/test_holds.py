"""What a message names is held until its results are there, and not longer."""

import gc
import weakref

import numpy as np
import pytest
from joblib import Parallel, delayed
from samemap import _core


def total(array):
    return float(array.sum())


def fail(array):
    raise KeyError(array.shape)


class Unpicklable:
    """It can't be a result."""

    def __reduce__(self):
        raise ZeroDivisionError


def unpicklable(array):
    return Unpicklable()


class Opened:
    """Pickling it opens a file without a name and sends the map of that."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        array = np.memmap(self.path, np.float64, "w+", shape=(100,))
        self.path.unlink()
        array[:] = 7
        return total, (array,)


@pytest.fixture
def mapped(tmp_path):
    """Return a function that maps a file and a weak reference to the map."""

    def mapped():
        array = np.memmap(tmp_path / "data", np.float64, "w+", shape=(100,))
        return array, weakref.ref(array._mmap)

    return mapped


def run(parallel, function, *arguments):
    """Run some tasks; return the type of the error, whose frames hold arrays."""
    try:
        parallel([delayed(function)(*arguments)] * 5)
    except Exception as error:
        return type(error)
    return None


@pytest.mark.parametrize("function", [total, fail, unpicklable])
def test_nothing_is_held_after_a_call(backend, mapped, function):
    """After results, errors and lost results the maps are the caller's alone."""
    gc.collect()
    before = _core.known()
    array, reference = mapped()
    error = run(Parallel(n_jobs=2, backend=backend), function, array[::-1])
    assert (error is None) == (function is total)
    del array
    gc.collect()
    assert reference() is None
    assert _core.known() == before


@pytest.mark.parametrize("function", [total, fail])
def test_nothing_is_held_between_calls(backend, mapped, function):
    """A pool that lives on holds nothing of the call before."""
    gc.collect()
    before = _core.known()
    with Parallel(n_jobs=2, backend=backend) as parallel:
        array, reference = mapped()
        assert (run(parallel, function, array) is None) == (function is total)
        del array
        # joblib itself keeps the tasks of a call that failed until the next, which
        # in joblib 1.3 may end with the same error.
        run(parallel, len, ())
        gc.collect()
        assert reference() is None
        assert _core.known() == before


def test_held_until_the_result_is_there(backend, tmp_path):
    """A map that nobody holds but its message can be had by the worker."""
    results = Parallel(n_jobs=2, backend=backend)(
        delayed(float)(Opened(tmp_path / str(i))) for i in range(10)
    )
    assert results == [700.0] * 10
