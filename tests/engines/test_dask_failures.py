"""dask: files that are gone, replaced or shorter, workers that are killed."""

import gc
import os
import time

import joblib
import numpy as np
import pytest
import samemap
from support import dask_tasks

distributed = pytest.importorskip("distributed")

import samemap.dask  # noqa: E402
from samemap.dask import _audience  # noqa: E402

pytestmark = [pytest.mark.needs_maps]

TIMEOUT = 60


@pytest.fixture
def memmap(memmap_path):
    return np.memmap(memmap_path, "f8", "r")


def remove(path):
    os.unlink(path)


def replace(path):
    os.unlink(path)
    np.full(6000, 7.0).tofile(path)


def truncate(path):
    os.truncate(path, 4096)


FAILURES = [
    (remove, samemap.BackingNotFoundError),
    (replace, samemap.BackingReplacedError),
    (truncate, samemap.BackingTruncatedError),
]


@pytest.mark.parametrize(("fail", "error"), FAILURES)
def test_between_submit_and_the_task(client, tmp_path, memmap_path, fail, error):
    """The error is the task's own, typed, names the path; others are not affected."""
    gate = client.submit(dask_tasks.wait_for, tmp_path / "gate", pure=False)
    future = client.submit(
        dask_tasks.second, gate, np.memmap(memmap_path, "f8", "r"), pure=False
    )
    other = client.submit(dask_tasks.second, gate, np.arange(3), pure=False)
    # As if the client had forgotten them.
    _audience.of(client)._held.clear()
    gc.collect()
    fail(memmap_path)
    (tmp_path / "gate").touch()
    with pytest.raises(error, match=r"data"):
        future.result(TIMEOUT)
    assert other.result(TIMEOUT) == ("ndarray", 3.0, None)


@pytest.mark.needs_descriptors
@pytest.mark.parametrize("fail", [remove, replace])
def test_while_there_is_a_future(client, tmp_path, memmap_path, fail):
    """The client keeps the map: workers find the file that it has."""
    gate = client.submit(dask_tasks.wait_for, tmp_path / "gate", pure=False)
    future = client.submit(
        dask_tasks.second, gate, np.memmap(memmap_path, "f8", "r"), pure=False
    )
    gc.collect()
    fail(memmap_path)
    (tmp_path / "gate").touch()
    assert future.result(TIMEOUT) == ("memmap", 17997000.0, "r")


@pytest.mark.parametrize("fail", [remove, replace, truncate])
def test_scattered(client, memmap, fail):
    """One worker sends another what its map has, or an error that the task raises."""
    first, other = client.scheduler_info()["workers"]
    future = client.scatter(memmap, workers=[first], hash=False)
    task = client.submit(dask_tasks.place, future, workers=[first], pure=False)
    assert task.result(TIMEOUT)[1] == 17997000
    fail(memmap.filename)
    task = client.submit(dask_tasks.place, future, workers=[other], pure=False)
    if fail is truncate:
        with pytest.raises(samemap.BackingTruncatedError):
            task.result(TIMEOUT)
    else:
        assert task.result(TIMEOUT)[1] == 17997000
    alive = client.submit(sum, [1, 2], workers=[other], pure=False)
    assert alive.result(TIMEOUT) == 3


def test_truncated_before_submit(client, memmap):
    """Submit raises, as the elements can't be read, and the cluster goes on."""
    truncate(memmap.filename)
    with pytest.raises(samemap.BackingTruncatedError):
        client.submit(dask_tasks.place, memmap, pure=False)
    assert client.submit(sum, [1, 2], pure=False).result(TIMEOUT) == 3


def test_truncated_before_scatter(client, memmap):
    """What is scattered raises where it is used."""
    truncate(memmap.filename)
    future = client.scatter(memmap, hash=False)
    with pytest.raises(samemap.BackingTruncatedError):
        client.submit(dask_tasks.place, future, pure=False).result(TIMEOUT)
    with pytest.raises(samemap.BackingTruncatedError):
        future.result(TIMEOUT)


@pytest.mark.parametrize("fail", [remove, replace])
def test_gone_before_submit(client, memmap, fail):
    """By value then: the map still has the data."""
    fail(memmap.filename)
    future = client.submit(dask_tasks.place, memmap, pure=False)
    assert future.result(TIMEOUT)[1] == 17997000


@pytest.fixture
def two_workers(client):
    """Both are there and answer, before the test and after it."""
    answering(client)
    yield
    answering(client)


def answering(client):
    deadline = time.monotonic() + TIMEOUT
    while True:
        try:
            if len(client.run(dask_tasks.who)) == 2:
                return
        except OSError:
            # One of them is dead, and the scheduler doesn't know yet.
            pass
        assert time.monotonic() < deadline
        time.sleep(0.05)


def in_joblib(function, *args):
    with joblib.parallel_config(backend="dask"):
        return joblib.Parallel()([joblib.delayed(function)(*args)] * 2)


def test_joblib_truncated_before_the_call(client, memmap):
    """`Parallel` raises, where stock would wait for ever for an error of dask's."""
    truncate(memmap.filename)
    with pytest.raises(samemap.BackingTruncatedError):
        in_joblib(dask_tasks.place, memmap)


@pytest.mark.needs_descriptors
@pytest.mark.parametrize("fail", [remove, replace, truncate])
def test_joblib_between_call_and_task(client, tmp_path, memmap, fail):
    """Right, or the error of loading is raised; and the next call works."""
    gate = tmp_path / "gate"
    busy = client.map(dask_tasks.wait_for, [gate] * 4, pure=False)
    backend = {}

    def tasks():
        yield joblib.delayed(dask_tasks.place)(memmap)
        yield joblib.delayed(dask_tasks.place)(memmap)
        # Both are written by now or soon: wait until dask has them.
        while not backend.get("sent"):
            backend["sent"] = len(_batches(client)) >= 2
            time.sleep(0.01)
        fail(memmap.filename)
        gate.touch()

    with joblib.parallel_config(backend="dask"):
        parallel = joblib.Parallel(batch_size=1, pre_dispatch="all")
        if fail is truncate:
            with pytest.raises(samemap.BackingTruncatedError):
                parallel(tasks())
        else:
            assert [place[1] for place in parallel(tasks())] == [17997000] * 2
    client.gather(busy)
    assert in_joblib(sum, [1, 2]) == [3, 3]


def _batches(client):
    return client.run_on_scheduler(
        lambda dask_scheduler: [
            key for key in dask_scheduler.tasks if str(key).startswith("batch_of_place")
        ]
    )


def test_joblib_raises_when_workers_are_killed(client, two_workers, memmap):
    """Stock joblib waits for ever; the cluster goes on."""
    with pytest.raises(distributed.KilledWorker):
        in_joblib(dask_tasks.die, memmap)
    answering(client)
    assert [place[1] for place in in_joblib(dask_tasks.place, memmap)] == [17997000] * 2


def test_joblib_raises_when_workers_are_killed_without_arrays(two_workers):
    """So it is for tasks without any mapped array."""
    with pytest.raises(distributed.KilledWorker):
        in_joblib(dask_tasks.die, 1)


def test_what_a_task_raises(two_workers, memmap):
    """The task's own error is what joblib raises."""
    with pytest.raises(ZeroDivisionError):
        in_joblib(divmod, 1, 0)
    with pytest.raises(AttributeError):
        in_joblib(dask_tasks.first_of, memmap)
