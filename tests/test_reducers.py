"""The user's own reducers, given to joblib's pools, and ours."""

import gc
import weakref

import joblib.executor
import joblib.pool
import numpy as np
import pytest
import samemap
from joblib.parallel import BatchedCalls
from samemap import _core, _subclasses


class Marked(np.recarray):
    """What the user's reducer makes of a recarray."""


def mark(array):
    return remake, (Marked, array.view(np.ndarray))


def remake(cls, array):
    return array.view(cls)


def never(array):
    raise AssertionError("joblib overrides this one too")


def type_of(array):
    return type(array)


def records(path):
    array = np.memmap(path, np.float64, "r").view([("a", "f8"), ("b", "f8")])
    return array.view(np.recarray)


def own_records(path):
    return records(path)


class Pools:
    """joblib's two pools, asked for with the user's reducers."""

    @staticmethod
    def multiprocessing(function, argument, **reducers):
        pool = joblib.pool.MemmappingPool(1, **reducers)
        try:
            return pool.apply_async(function, (argument,)).get(60)
        finally:
            pool.terminate()

    @staticmethod
    def loky(function, argument, **reducers):
        executor = joblib.executor.get_memmapping_executor(1, **reducers)
        return executor.submit(function, argument).result(60)


@pytest.fixture
def run(backend):
    return getattr(Pools, backend)


def test_forward_reducers(run, memmap_path):
    """The user's reducer of a class that we know is the one that is used."""
    array = records(memmap_path)
    assert run(type_of, array) is np.recarray
    assert run(type_of, array, forward_reducers={np.recarray: mark}) is Marked


def test_backward_reducers(run, memmap_path):
    """For results as well."""
    result = run(own_records, memmap_path, backward_reducers={np.recarray: mark})
    assert type(result) is Marked


def test_arrays_are_ours(run, memmap_path):
    """Those of ndarray and memmap are ours, as without samemap they are joblib's."""
    reducers = {np.ndarray: never, np.memmap: never}
    array = np.memmap(memmap_path, np.float64, "r")[::-1]
    assert run(type_of, array, forward_reducers=reducers) is np.memmap
    with samemap.disabled():
        reducers = {np.ndarray: never, np.memmap: never}
        assert run(type_of, array[::-1], forward_reducers=reducers) is np.memmap


def test_the_users_dict_is_not_ours():
    """A dict that is given twice has none of our entries the second time."""
    reducers = {np.recarray: mark}
    with samemap.enabled(strict=True):
        forward, _ = joblib.pool.get_memmapping_reducers(reducers)
    assert BatchedCalls in forward
    assert {*reducers} == {np.recarray, np.ndarray, np.memmap}
    again, _ = joblib.pool.get_memmapping_reducers(reducers)
    assert again[np.recarray] is mark
    assert again[BatchedCalls] is not forward[BatchedCalls]
    assert again[np.ndarray] is not forward[np.ndarray]


def test_late_entries_are_not_over_the_users():
    """What is found later doesn't take the place of the user's entry."""
    forward, backward = joblib.pool.get_memmapping_reducers(
        {np.recarray: mark}, {np.ma.MaskedArray: mark}
    )
    assert not _subclasses.late(forward)
    assert not _subclasses.late(backward)
    assert forward[np.recarray] is mark
    assert backward[np.ma.MaskedArray] is mark
    del forward[np.matrix]
    assert {*_subclasses.late(forward)} == {np.matrix}


@pytest.mark.parametrize("name", ["stock", "max_nbytes"])
def test_collected_with_what_leads_to_it(name):
    """A reducer that what it was given holds is garbage together with that."""

    class Number:
        def __index__(self):
            return 5

    given = Number()
    given.reducer = _core.Reducer(**{name: given})
    gone = weakref.ref(given)
    del given
    gc.collect()
    assert gone() is None
