"""`samemap.dask`: arguments, scattered data and results of a real cluster."""

import copyreg

import joblib
import numpy as np
import pytest
import samemap
from support import dask_tasks, layouts
from support.equality import differences, fingerprint
from support.kinds import KINDS, plain

distributed = pytest.importorskip("distributed")

import dask  # noqa: E402
import dask.array  # noqa: E402
import samemap.dask  # noqa: E402

TIMEOUT = 60


@pytest.fixture
def run(client):
    """Return a function that runs a task of its own and returns its result."""

    def run(function, *args, **options):
        return client.submit(function, *args, pure=False, **options).result(TIMEOUT)

    return run


def by_submit(client, array):
    return client.submit(dask_tasks.fingerprint_of, array, pure=False).result(TIMEOUT)


def by_scatter(client, array):
    return by_submit(client, client.scatter(array, hash=False))


def in_joblib(client, array):
    with joblib.parallel_config(backend="dask"):
        tasks = [joblib.delayed(dask_tasks.fingerprint_of)(array)] * 2
        first, other = joblib.Parallel()(tasks)
    assert first == other
    return first


WAYS = [by_submit, by_scatter, in_joblib]


def assert_arrived(array, arrived):
    """What goes by reference is as it was; the rest has its elements and their type."""
    different = differences(fingerprint(array), arrived)
    if samemap.explain(array, engine="dask")["by_reference"]:
        assert not different
    else:
        assert "sha256" not in different
        assert array.shape == arrived["shape"]


def reduce_to_shape(array):
    return tuple, (array.shape,)


def test_reducers_of_the_user(run, memmap, monkeypatch):
    """What the user has registered with `copyreg` wins, as in stock."""
    monkeypatch.setitem(copyreg.dispatch_table, np.memmap, reduce_to_shape)
    assert run(dask_tasks.same, memmap) == memmap.shape


# ---- Layouts -----------------------------------------------------------------


@pytest.mark.needs_maps
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("expression", layouts.VIEWS)
def test_views_arrive_as_they_are(client, tmp_path, way, expression):
    """Every view of an np.memmap keeps its layout on each way to a worker."""
    path = tmp_path / "data"
    path.write_bytes(layouts.random_bytes())
    array = layouts.view(layouts.by_memmap(path), expression)
    assert not differences(fingerprint(array), way(client, array))


@pytest.mark.needs_pagemap
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("expression", layouts.FILES + layouts.PRIVATE)
def test_files_arrive_as_they_are(client, tmp_path, way, expression):
    """However a file was opened; what no path leads to arrives with its elements."""
    array = layouts.open_file(tmp_path, expression)
    assert_arrived(array, way(client, array))


@pytest.mark.needs_pagemap
@pytest.mark.parametrize("expression", layouts.VIEWS)
def test_results_are_what_the_task_returned(run, tmp_path, expression):
    """A worker's view of its np.memmap of mode c arrives with its layout."""
    path = tmp_path / "data"
    path.write_bytes(layouts.random_bytes())
    result = run(dask_tasks.opened, path, expression)
    expected = dask_tasks.opened(path, expression)
    assert not differences(fingerprint(expected), fingerprint(result))


@pytest.mark.needs_pagemap
def test_results_of_joblib_are_what_the_task_returned(client, tmp_path):
    """So it is in joblib's backend."""
    path = tmp_path / "data"
    path.write_bytes(layouts.random_bytes())
    tasks = [joblib.delayed(dask_tasks.opened)(path, view) for view in layouts.VIEWS]
    with joblib.parallel_config(backend="dask"):
        results = joblib.Parallel()(tasks)
    for expression, result in zip(layouts.VIEWS, results, strict=True):
        expected = dask_tasks.opened(path, expression)
        assert not differences(fingerprint(expected), fingerprint(result)), expression


# ---- Who sees what is written ------------------------------------------------


@pytest.mark.needs_pagemap
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("way", ["submit", "scatter", "joblib"])
def test_nothing_is_written_through(client, run, make, kind, way):
    """Whatever memory it is: a task writes to its own, and the caller never sees it."""
    array = make(kind)
    if not plain(array).flags.writeable or type(array) not in (np.ndarray, np.memmap):
        pytest.skip("not to be written to, or of a class of its own")
    if samemap.explain(array)["writes"] == "shared":
        pytest.skip("made to be shared")
    before = np.array(array)
    expected = (before + 1).tolist()
    if way == "joblib":
        with joblib.parallel_config(backend="dask"):
            tasks = [joblib.delayed(dask_tasks.add_one)(array) for _ in range(4)]
            results = joblib.Parallel(batch_size=2)(tasks)
        # A copy is one for all tasks of a batch, or of a worker, as in stock.
        if samemap.explain(array, engine="dask")["by_reference"]:
            assert results == [expected] * 4
    elif way == "submit":
        for _ in range(3):
            assert run(dask_tasks.add_one, array) == expected
    else:
        future = client.scatter(array, hash=False)
        run(dask_tasks.add_one, future)
    np.testing.assert_array_equal(array, before)


@pytest.mark.needs_maps
def test_one_array_of_several_nodes(client, memmap):
    """Tasks that are given one array never see each other's writes."""
    futures = client.map(dask_tasks.add_one, [memmap[:5]] * 8, pure=False)
    assert client.gather(futures) == [[1.0, 2.0, 3.0, 4.0, 5.0]] * 8
    assert memmap[0] == 0


@pytest.mark.needs_descriptors
def test_memory_that_was_made_to_be_shared(client, run):
    """What tasks write to `samemap.zeros` the caller sees."""
    array = samemap.zeros(5)
    run(dask_tasks.add_one, array)
    with joblib.parallel_config(backend="dask"):
        joblib.Parallel()([joblib.delayed(dask_tasks.add_one)(array)] * 2)
    assert array.tolist() == [3.0] * 5


@pytest.mark.needs_descriptors
def test_memory_that_was_made_to_be_shared_is_kept(client, tmp_path):
    """The caller may drop it before the task has begun."""
    gate = client.submit(dask_tasks.wait_for, tmp_path / "gate", pure=False)
    array = samemap.zeros(5)
    future = client.submit(dask_tasks.second, gate, array, pure=False)
    del array
    (tmp_path / "gate").touch()
    assert future.result(TIMEOUT) == ("ndarray", 0.0, None)


@pytest.mark.needs_maps
def test_writing_through(client, run, memmap):
    """With write_through=True tasks write to the file."""
    samemap.dask.install(client, write_through=True)
    try:
        run(dask_tasks.add_one, memmap)
        assert memmap[0] == 1
    finally:
        samemap.dask.install(client)
    run(dask_tasks.add_one, memmap)
    assert memmap[0] == 1


@pytest.mark.needs_pagemap
def test_a_result_is_the_callers_own(client, run, memmap):
    """What the caller writes to a result neither the file nor the next result has."""
    array = np.memmap(memmap.filename, "f8", "c")
    for _ in range(2):
        result = run(dask_tasks.same, array)
        assert result[0] == 0
        result[0] = 9
    assert memmap[0] == 0


def test_a_result_does_not_move(run, tmp_path):
    """A scratch file that a task maps for writing and returns is copied."""
    results = [
        run(lambda i, path=tmp_path / "scratch": _scratch(i, path), i) for i in range(3)
    ]
    assert [result.tolist() for result in results] == [[i] * 4 for i in range(3)]


def _scratch(value, path):
    array = np.memmap(path, "f8", "w+", shape=(4,))
    array[:] = value
    return array


# ---- Ways to a task ----------------------------------------------------------


@pytest.mark.needs_maps
def test_nested(run, memmap):
    """By reference in containers, objects, closures, partials and keyword arguments."""
    expected = "memmap", 17997000.0, "r+"
    assert (
        run(lambda x: dask_tasks.place(x["a"][0][1]), {"a": [(1, memmap)]}) == expected
    )
    assert run(dask_tasks.first_of, dask_tasks.Holder(memmap)) == expected
    assert run(lambda: dask_tasks.place(memmap)) == expected
    assert run(lambda *, x: dask_tasks.place(x), x=memmap) == expected


@pytest.mark.needs_maps
def test_worker_to_worker(client, run, memmap):
    """A result of one worker reaches another as the view that it was."""
    first, other = client.scheduler_info()["workers"]
    array = np.memmap(memmap.filename, "f8", "r")[::-2]
    future = client.submit(dask_tasks.same, array, workers=[first], pure=False)
    arrived = run(dask_tasks.fingerprint_of, future, workers=[other])
    assert not differences(fingerprint(array), arrived)


@pytest.mark.needs_maps
def test_graphs(client, memmap):
    """Graphs of delayed objects, and of arrays over read-only maps, have references."""
    array = np.memmap(memmap.filename, "f8", "r")
    told = dask.delayed(dask_tasks.place)(array).compute()
    assert told == ("memmap", 17997000.0, "r")
    chunks = dask.array.from_array(array, chunks=2000)
    assert chunks.sum().compute() == 17997000
    places = chunks.map_blocks(
        lambda block: np.array([type(block) is np.memmap]), dtype=bool, chunks=(1,)
    )
    assert places.compute().all()


@pytest.mark.needs_maps
def test_annotations_are_kept(client, memmap):
    """A graph with references keeps what says which worker is to run what."""
    address = list(client.scheduler_info()["workers"])[1]
    array = np.memmap(memmap.filename, "f8", "r")
    with dask.annotate(workers=[address]):
        parts = dask.array.from_array(array, chunks=1000)
        places = parts.map_blocks(
            lambda block: np.array([distributed.get_worker().address]),
            dtype="U40",
            chunks=(1,),
        )
    with dask.config.set({"optimization.fuse.active": False}):
        found = places.compute(optimize_graph=False)
    assert set(found) == {address}


@pytest.mark.needs_maps
def test_a_coroutine_function(run, memmap):
    """A task that is one is awaited, whatever it holds."""

    async def task():
        return dask_tasks.place(memmap)[1]

    assert run(task) == 17997000


@pytest.mark.needs_maps
def test_retries_and_killed_workers(client, run, tmp_path, memmap):
    """A task whose worker is killed gets the same array on another one."""
    told = run(dask_tasks.die_once, tmp_path / "died", memmap)
    assert told == ("memmap", 17997000.0, "r+")


def test_what_is_spilled_is_data(memmap):
    """What a worker writes to its disk has no path of another file in it."""
    from distributed.protocol import serialize_bytes

    assert memmap.tobytes() in serialize_bytes(memmap)


def test_ordinary_arrays_are_left_alone(client):
    """A graph without mapped arrays is sent as it is."""
    from samemap._remote import Readers
    from samemap._sight import here
    from samemap.dask._graph import rewrite

    expr = dask.delayed(sum)([np.arange(3), 1]).__dask_graph__()
    from dask._expr import LLGExpr

    expr = LLGExpr(dict(expr))
    assert rewrite(expr, Readers([here()]), False, []) is expr
