"""`samemap.ray`: arguments, what is put, results, joblib's backend; real workers."""

import functools
import os

import joblib
import joblib.pool
import numpy as np
import pytest
import samemap
from support import dask_tasks, layouts
from support.equality import differences, fingerprint
from support.kinds import KINDS, plain
from support.scripts import TESTS, run_script

ray = pytest.importorskip("ray")

import samemap.ray  # noqa: E402
from ray._private.serialization import SerializationContext  # noqa: E402
from samemap.ray import _audience  # noqa: E402

TIMEOUT = 60
OPTIONS = {
    "num_cpus": 2,
    "include_dashboard": False,
    "configure_logging": False,
    "log_to_driver": False,
}

# Where the numbers of `memmap_path` add up to.
SUM = 17997000.0
# What a task is told of a copy of it.
COPIED = "memmap", SUM, None


@pytest.fixture(scope="session")
def cluster():
    """One node, for all tests of the session."""
    ray.init(**OPTIONS, runtime_env={"env_vars": {"PYTHONPATH": str(TESTS)}})
    from ray.util.joblib import register_ray

    register_ray()
    yield
    ray.shutdown()


@pytest.fixture
def installed(cluster):
    samemap.ray.install()
    yield
    samemap.ray.uninstall()


@pytest.fixture
def run(installed):
    """Return a function that runs a task in a worker and returns its result."""
    return in_worker


def in_worker(function, *args, **kwargs):
    return ray.get(ray.remote(function).remote(*args, **kwargs), timeout=TIMEOUT)


def in_joblib(function, *tasks, **options):
    # Ray's backend makes joblib's pool of multiprocessing its own, and leaves it so.
    bases = joblib.pool.PicklingPool.__bases__
    try:
        with joblib.parallel_config(backend="ray"):
            delayed = [joblib.delayed(function)(*args) for args in tasks]
            return joblib.Parallel(n_jobs=2, **options)(delayed)
    finally:
        joblib.pool.PicklingPool.__bases__ = bases


def as_argument(array):
    return in_worker(dask_tasks.fingerprint_of, array)


def as_put(array):
    return in_worker(dask_tasks.fingerprint_of, ray.put(array))


def as_put_and_got(array):
    return fingerprint(ray.get(ray.put(array)))


WAYS = [as_argument, as_put, as_put_and_got]


def assert_arrived(array, arrived):
    """What goes by reference is as it was; the rest has its elements and their type."""
    different = differences(fingerprint(array), arrived)
    if samemap.explain(array, engine="ray")["by_reference"]:
        assert not different
    else:
        assert "sha256" not in different
        assert array.shape == arrived["shape"]


@pytest.fixture
def views(tmp_path):
    """All views of one np.memmap, by their expressions."""
    path = tmp_path / "data"
    path.write_bytes(layouts.random_bytes())
    flat = layouts.by_memmap(path)
    return {expression: layouts.view(flat, expression) for expression in layouts.VIEWS}


# ---- Layouts -----------------------------------------------------------------


@pytest.mark.needs_maps
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("expression", layouts.VIEWS)
def test_views_arrive_as_they_are(installed, tmp_path, way, expression):
    """Every view of an np.memmap keeps its layout on each way."""
    path = tmp_path / "data"
    path.write_bytes(layouts.random_bytes())
    array = layouts.view(layouts.by_memmap(path), expression)
    assert not differences(fingerprint(array), way(array))


@pytest.mark.needs_pagemap
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("expression", layouts.FILES + layouts.PRIVATE)
def test_files_arrive_as_they_are(installed, tmp_path, way, expression):
    """However a file was opened; what no path leads to arrives with its elements."""
    array = layouts.open_file(tmp_path, expression)
    assert_arrived(array, way(array))


@pytest.mark.needs_descriptors
@pytest.mark.needs_pagemap
@pytest.mark.parametrize("expression", layouts.VIEWS)
def test_results_are_what_the_task_returned(run, tmp_path, memmap, expression):
    """A worker's view of its np.memmap of mode c arrives with its layout."""
    path = tmp_path / "flat"
    path.write_bytes(layouts.random_bytes())
    # An array is what tells a worker of samemap.
    result = run(dask_tasks.opened_beside, memmap, path, expression)
    expected = dask_tasks.opened(path, expression)
    assert not differences(fingerprint(expected), fingerprint(result))


@pytest.mark.needs_maps
def test_views_arrive_as_they_are_in_joblib(cluster, views):
    """So it is for tasks of joblib's backend, with nothing but the import."""
    arrived = in_joblib(
        dask_tasks.fingerprint_of, *((array,) for array in views.values())
    )
    for (expression, array), found in zip(views.items(), arrived, strict=True):
        assert not differences(fingerprint(array), found), expression


@pytest.mark.needs_pagemap
def test_files_arrive_as_they_are_in_joblib(cluster, tmp_path):
    """However a file was opened."""
    expressions = layouts.FILES + layouts.PRIVATE
    arrays = [layouts.open_file(tmp_path, expression) for expression in expressions]
    arrived = in_joblib(dask_tasks.fingerprint_of, *((array,) for array in arrays))
    for array, found in zip(arrays, arrived, strict=True):
        assert_arrived(array, found)


@pytest.mark.needs_pagemap
def test_results_of_joblib_are_what_the_task_returned(cluster, tmp_path, memmap):
    """A worker's views of its np.memmap of mode c arrive with their layouts."""
    path = tmp_path / "flat"
    path.write_bytes(layouts.random_bytes())
    tasks = [(memmap, path, expression) for expression in layouts.VIEWS]
    results = in_joblib(dask_tasks.opened_beside, *tasks)
    for expression, result in zip(layouts.VIEWS, results, strict=True):
        expected = dask_tasks.opened(path, expression)
        assert not differences(fingerprint(expected), fingerprint(result)), expression


# ---- Who sees what is written ------------------------------------------------


@pytest.mark.needs_pagemap
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("way", ["argument", "put"])
def test_nothing_is_written_through(installed, make, kind, way):
    """Whatever memory it is: a task writes to its own, and the caller never sees it."""
    array = make(kind)
    told = samemap.explain(array, engine="ray")
    if not plain(array).flags.writeable or type(array) not in (np.ndarray, np.memmap):
        pytest.skip("not to be written to, or of a class of its own")
    if not told["by_reference"]:
        pytest.skip("a copy, which Ray makes read-only")
    before = np.array(array)
    sent = ray.put(array) if way == "put" else array
    for _ in range(3):
        assert in_worker(dask_tasks.add_one, sent) == (before + 1).tolist()
    np.testing.assert_array_equal(array, before)


@pytest.mark.needs_pagemap
@pytest.mark.parametrize("mode", ["r+", "c"])
def test_nothing_is_written_through_in_joblib(cluster, memmap_path, mode):
    """Each task of a batch has its own."""
    array = np.memmap(memmap_path, "f8", mode)
    array[3] = 7
    before = np.array(array)
    results = in_joblib(dask_tasks.add_one, *[(array,)] * 4, batch_size=2)
    assert results == [(before + 1).tolist()] * 4
    np.testing.assert_array_equal(array, before)


@pytest.mark.needs_maps
def test_writing_through_in_joblib(cluster, memmap):
    """With `samemap.enabled(write_through=True)` the tasks of a call share the file."""
    with samemap.enabled(write_through=True):
        in_joblib(dask_tasks.add_one, (memmap,), (memmap,))
    assert memmap[0] == 2


@pytest.mark.needs_descriptors
def test_memory_that_was_made_to_be_shared(run):
    """What tasks write to `samemap.zeros` the caller sees."""
    array = samemap.zeros(5)
    run(dask_tasks.add_one, array)
    in_joblib(dask_tasks.add_one, (array,), (array,))
    assert array.tolist() == [3.0] * 5


@pytest.mark.needs_maps
def test_writing_through(run, memmap):
    """With write_through=True tasks write to the file, until the next install."""
    samemap.ray.install(write_through=True)
    run(dask_tasks.add_one, memmap)
    assert memmap[0] == 1
    samemap.ray.install()
    run(dask_tasks.add_one, memmap)
    assert memmap[0] == 1


@pytest.mark.needs_pagemap
def test_a_result_is_the_callers_own(run, memmap_path):
    """What the caller writes to a result neither the file nor the next result has."""
    array = np.memmap(memmap_path, "f8", "c")
    for _ in range(2):
        result = run(dask_tasks.same, array)
        assert type(result) is np.memmap
        assert result[0] == 0
        result[0] = 9
    assert array[0] == 0


def test_a_result_does_not_move(run, tmp_path, memmap):
    """A scratch file that a task maps for writing and returns is copied."""
    results = [
        run(dask_tasks.scratch, tmp_path / "scratch", i, memmap) for i in range(3)
    ]
    assert [result.tolist() for result in results] == [[i] * 4 for i in range(3)]


@pytest.mark.needs_maps
def test_a_put_is_no_snapshot(run, memmap):
    """A task sees what the file holds when it reads, as the guide says loudly."""
    reference = ray.put(memmap)
    memmap[:] = 1
    assert run(dask_tasks.place, reference) == ("memmap", 6000.0, "r+")


# ---- Ways to a task ----------------------------------------------------------


@pytest.mark.needs_maps
def test_nested(run, memmap):
    """By reference in containers, objects, partials and keyword arguments."""
    expected = "memmap", SUM, "r+"
    assert (
        run(lambda x: dask_tasks.place(x["a"][0][1]), {"a": [(1, memmap)]}) == expected
    )
    assert run(dask_tasks.first_of, dask_tasks.Holder(memmap)) == expected
    assert run(lambda *, x: dask_tasks.place(x), x=memmap) == expected


@pytest.mark.needs_maps
def test_nested_in_joblib(cluster, memmap):
    """By reference in containers, objects, partials and closures of joblib's tasks."""
    expected = "memmap", SUM, "r+"

    def closure():
        return dask_tasks.place(memmap)

    partial = functools.partial(dask_tasks.place, memmap)
    holder = dask_tasks.Holder(memmap)
    assert in_joblib(closure, ()) == [expected]
    assert in_joblib(partial, ()) == [expected]
    assert in_joblib(dask_tasks.first_of, (holder,)) == [expected]


def test_closures_are_data(run, memmap):
    """A function may be kept by Ray for long: what it holds is a copy, as in stock."""
    assert run(lambda: dask_tasks.place(memmap)) == COPIED


@pytest.mark.needs_maps
def test_actors(installed, memmap):
    """Arguments of constructors and methods, and what methods return."""

    class Actor:
        def __init__(self, array):
            self.array = array

        def place(self, other):
            return dask_tasks.place(self.array), dask_tasks.place(other)

        def part(self):
            return self.array[::-3]

    read_only = np.memmap(memmap.filename, "f8", "r")
    actor = ray.remote(Actor).remote(read_only)
    places = ray.get(actor.place.remote(memmap[::2]), timeout=TIMEOUT)
    assert places[0] == ("memmap", SUM, "r")
    assert places[1][0::2] == ("memmap", "r+")
    part = ray.get(actor.part.remote(), timeout=TIMEOUT)
    assert not differences(fingerprint(read_only[::-3]), fingerprint(part))


@pytest.mark.needs_maps
def test_references_of_ray_in_an_object(installed, memmap):
    """What sits beside an array is kept while the object is, and arrives."""
    outer = ray.put((memmap, ray.put(np.arange(100_000))))
    array, inner = ray.get(outer)
    assert type(array) is np.memmap
    assert ray.get(inner, timeout=TIMEOUT)[-1] == 99_999


def test_ordinary_arrays_are_left_alone(installed):
    """One in memory arrives as in stock, without a copy, and beside a mapped one."""
    reference = ray.put(np.arange(100_000))
    first, second = ray.get(reference), ray.get(reference)
    assert np.shares_memory(first, second)
    assert in_worker(dask_tasks.place, first)[1] == 4999950000


@pytest.mark.needs_maps
def test_beside_ordinary_arrays(installed, memmap):
    """An array in memory stays in Ray's memory though its object has a reference."""
    reference = ray.put((memmap, np.arange(100_000)))
    (mapped, first), (_, second) = ray.get(reference), ray.get(reference)
    assert type(mapped) is np.memmap
    assert np.shares_memory(first, second)


# ---- Errors ------------------------------------------------------------------


FAILURES = [
    (dask_tasks.remove, samemap.BackingNotFoundError),
    (dask_tasks.replace, samemap.BackingReplacedError),
    (dask_tasks.truncate, samemap.BackingTruncatedError),
]


@pytest.mark.needs_maps
@pytest.mark.parametrize(("fail", "error"), FAILURES)
@pytest.mark.parametrize("nested", [False, True])
def test_a_file_that_has_changed(run, memmap_path, fail, error, nested):
    """The error is the task's own, or that of `get`, typed, and names the path."""
    array = np.memmap(memmap_path, "f8", "r")
    reference = ray.put({"array": [array]} if nested else array)
    del array
    fail(memmap_path)
    with pytest.raises(error, match=str(memmap_path)):
        run(dask_tasks.same, reference)
    with pytest.raises(error, match=str(memmap_path)):
        ray.get(reference)
    assert run(dask_tasks.same, 3) == 3


@pytest.mark.needs_maps
@pytest.mark.parametrize(("fail", "error"), FAILURES)
def test_between_call_and_task(run, tmp_path, memmap_path, fail, error):
    """So it is for an argument; a task that never looks at it fails as well."""
    gate = tmp_path / "gate"
    blocker = ray.remote(dask_tasks.wait_for).remote(gate)
    future = ray.remote(dask_tasks.second).remote(
        blocker, np.memmap(memmap_path, "f8", "r")
    )
    fail(memmap_path)
    gate.touch()
    with pytest.raises(error, match=str(memmap_path)):
        ray.get(future, timeout=TIMEOUT)


@pytest.mark.needs_maps
def test_a_result_that_cant_be_loaded(run, memmap_path):
    """`get` raises the typed error."""
    future = ray.remote(dask_tasks.same).remote(np.memmap(memmap_path, "f8", "r"))
    ray.wait([future], timeout=TIMEOUT)
    dask_tasks.truncate(memmap_path)
    with pytest.raises(samemap.BackingTruncatedError, match=str(memmap_path)):
        ray.get(future, timeout=TIMEOUT)


@pytest.mark.needs_maps
def test_truncated_before_the_call(run, memmap):
    """The call raises, as the elements can't be read."""
    dask_tasks.truncate(memmap.filename)
    with pytest.raises(samemap.BackingTruncatedError):
        run(dask_tasks.place, memmap)
    with pytest.raises(samemap.BackingTruncatedError):
        in_joblib(dask_tasks.place, (memmap,), (memmap,))
    assert run(dask_tasks.same, 3) == 3


@pytest.mark.needs_maps
@pytest.mark.parametrize(("fail", "error"), FAILURES)
def test_in_joblib(cluster, memmap_path, fail, error):
    """A file that changes before a task has it: right by the caller's map, or typed.

    The pool's next call works.
    """
    change = dask_tasks.WhenLoaded(fail, memmap_path)
    array = np.memmap(memmap_path, "f8", "r")
    if error is samemap.BackingTruncatedError:
        with pytest.raises(error, match=str(memmap_path)):
            in_joblib(dask_tasks.second, (change, array))
    else:
        assert in_joblib(dask_tasks.second, (change, array))[0] == ("memmap", SUM, "r")
    assert in_joblib(sum, ([1, 2],), ([3, 4],)) == [3, 7]


@pytest.mark.needs_maps
def test_a_result_of_joblib_that_cant_be_loaded(cluster, memmap_path):
    """`Parallel` raises the error of loading a result."""
    array = np.memmap(memmap_path, "f8", "r")
    change = dask_tasks.WhenWritten(dask_tasks.truncate, memmap_path)
    with pytest.raises(samemap.BackingTruncatedError, match=str(memmap_path)):
        in_joblib(dask_tasks.same, ([array, change],))


def test_what_a_task_raises(run, memmap):
    """Is what it raises without samemap."""
    with pytest.raises(AttributeError):
        run(dask_tasks.first_of, memmap)
    with pytest.raises(AttributeError):
        in_joblib(dask_tasks.first_of, (memmap,), (memmap,))


# ---- Who is there ------------------------------------------------------------


def test_another_place(run, memmap, monkeypatch):
    """Unless all nodes see the files everything is a copy; a path is never tried."""
    node = next(iter(_audience.nodes_that_see()))
    _token, *others = _audience._places[node]
    for parts in (None, (b"elsewhere", *others)):
        monkeypatch.setitem(_audience._places, node, parts)
        _audience.forget()
        assert run(dask_tasks.place, memmap) == COPIED
        assert in_joblib(dask_tasks.place, (memmap,), (memmap,)) == [COPIED] * 2
        told = samemap.explain(memmap, engine="ray")
        assert (told["reason"], told["workers"]) == ("unreachable", {node: False})
    monkeypatch.undo()
    _audience.forget()
    assert run(dask_tasks.place, memmap) == ("memmap", SUM, "r+")
    assert samemap.explain(memmap, engine="ray")["workers"] == {node: True}


@pytest.mark.needs_maps
def test_a_message_of_another_place(run, memmap, monkeypatch):
    """Where paths mean nothing the error names the file, which isn't opened."""
    from samemap import _sight

    here = _sight.here()
    reference = ray.put((memmap, np.arange(100_000)))
    elsewhere = os.getpid(), here._replace(token=b"elsewhere")
    monkeypatch.setattr(_sight, "_here", elsewhere)
    with pytest.raises(samemap.BackingNotFoundError, match=memmap.filename.name):
        ray.get(reference)


def test_workers_without_samemap(tmp_path):
    """Workers that can't import it get copies, and no task fails."""
    program = """
        import sys
        import numpy as np, ray, samemap.ray

        # What is not found is not imported.
        block = "import sys; sys.modules['samemap'] = None"
        hook = lambda: exec(block)
        ray.init(
            num_cpus=1, include_dashboard=False, log_to_driver=False,
            runtime_env={"worker_process_setup_hook": hook},
        )
        samemap.ray.install()
        array = np.memmap(sys.argv[1], "f8", "w+", shape=(1000,))

        @ray.remote
        def name(array):
            return array.mode

        print(ray.get(name.remote(array)))
        print(samemap.explain(array, engine="ray")["reason"])
    """
    printed = run_script(program, tmp_path / "data")
    assert printed.split() == ["None", "unreachable"]


def test_a_task_without_samemap(tmp_path, run, memmap):
    """A task whose own environment lacks it fails, and says what is missing."""
    folder = tmp_path / "samemap"
    folder.mkdir()
    lacking = 'raise ModuleNotFoundError("No module named samemap")'
    (folder / "__init__.py").write_text(lacking)
    environment = {"env_vars": {"PYTHONPATH": f"{tmp_path}:{TESTS}"}}
    task = ray.remote(dask_tasks.place).options(runtime_env=environment)
    with pytest.raises(ray.exceptions.RaySystemError, match="No module named samemap"):
        ray.get(task.remote(memmap), timeout=TIMEOUT)


def test_several_nodes(tmp_path):
    """Nodes on one host get references, and send copies: they don't ask each other."""
    program = """
        import sys, time
        import numpy as np, ray, samemap.ray
        from ray.cluster_utils import Cluster
        from support.dask_tasks import place, same

        options = dict(num_cpus=1, include_dashboard=False)
        cluster = Cluster(initialize_head=True, head_node_args=options)
        ray.init(address=cluster.address, log_to_driver=False)
        samemap.ray.install()
        np.zeros(1000).tofile(sys.argv[1])
        array = np.memmap(sys.argv[1], "f8", "r")
        echo = ray.remote(same)
        print(place(ray.get(echo.remote(array))))
        cluster.add_node(num_cpus=1)
        cluster.wait_for_nodes()
        samemap.ray._audience.forget()
        look = ray.remote(place).options(scheduling_strategy="SPREAD")
        print(set(ray.get([look.remote(array) for _ in range(8)])))
        print(list(samemap.explain(array, engine="ray")["workers"].values()))
        mode, deadline = "r", time.monotonic() + 60
        while mode is not None and time.monotonic() < deadline:
            # What a worker knows of nodes is a second old.
            mode = ray.get(echo.remote(array)).mode
        print(mode)
        ray.shutdown()
        cluster.shutdown()
    """
    printed = run_script(program, tmp_path / "data").splitlines()
    here = "('memmap', 0.0, 'r')"
    assert printed == [here, f"{{{here}}}", "[True, True]", "None"]


# ---- In and out --------------------------------------------------------------


def test_nothing_is_imported():
    """Ray isn't, by the import or by a call of joblib's."""
    program = """
        import sys, joblib, samemap
        joblib.Parallel(n_jobs=2)(joblib.delayed(abs)(i) for i in range(4))
        print("ray" in sys.modules)
    """
    assert run_script(program) == "False\n"


@pytest.mark.parametrize("first", ["samemap", "ray"])
def test_joblibs_backend_in_any_order(first, tmp_path):
    """samemap may be imported before or after Ray has registered the backend."""
    program = f"""
        import sys
        if {first!r} == "samemap":
            import samemap
        import numpy as np, ray
        from joblib import Parallel, delayed, parallel_config
        from ray.util.joblib import register_ray
        from support.dask_tasks import place

        register_ray()
        import samemap
        ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
        array = np.memmap(sys.argv[1], "f8", "w+", shape=(1000,))[::-1]
        with parallel_config(backend="ray"):
            print(Parallel(n_jobs=2)([delayed(place)(array)] * 2))
            with samemap.disabled():
                print(Parallel(n_jobs=2)([delayed(place)(array)] * 2)[0])
    """
    expected = f"{[('memmap', 0.0, 'r+')] * 2}\n{('memmap', 0.0, None)}\n"
    assert run_script(program, tmp_path / "data") == expected


def what_is_in_force():
    from ray.cloudpickle import CloudPickler
    from ray.util.joblib.ray_backend import RayBackend

    return (
        dict(SerializationContext.__dict__),
        dict(CloudPickler.dispatch_table),
        dict(RayBackend.__dict__),
    )


@pytest.mark.needs_descriptors
def test_uninstall_gives_back_everything(cluster, memmap_path):
    """Functions, tables and workers are as they were; twice is harmless."""
    array = np.memmap(memmap_path, "f8", "r")
    actor = ray.remote(dask_tasks.Keeper).remote()
    before = what_is_in_force()
    samemap.ray.install()
    assert samemap.ray.installed()
    assert what_is_in_force() != before
    ray.get(actor.keep.remote(array), timeout=TIMEOUT)
    assert ray.get(actor.get.remote(), timeout=TIMEOUT).mode == "r"
    samemap.ray.uninstall()
    samemap.ray.uninstall()
    assert not samemap.ray.installed()
    assert what_is_in_force() == before
    assert ray.get(actor.get.remote(), timeout=TIMEOUT).mode is None
    assert in_worker(dask_tasks.place, array) == COPIED


def test_joblibs_class_is_given_back(cluster, memmap):
    """`samemap.uninstall` leaves the class of the backend as Ray has made it."""
    samemap.uninstall()
    try:
        before = what_is_in_force()
        samemap.install()
        in_joblib(dask_tasks.place, (memmap,))
        assert what_is_in_force() != before
        samemap.uninstall()
        assert what_is_in_force() == before
    finally:
        samemap.install()


@pytest.mark.parametrize(
    "name",
    ["_serialize_to_msgpack", "_serialize_to_pickle5", "set_in_band_serialization"],
)
def test_another_ray_is_not_touched(monkeypatch, name):
    """A typed error says what is missing, before anything is replaced."""
    monkeypatch.delattr(SerializationContext, name)
    before = dict(SerializationContext.__dict__)
    with pytest.raises(samemap.UnsupportedEngineError, match=name):
        samemap.ray.install()
    assert dict(SerializationContext.__dict__) == before
    assert not samemap.ray.installed()


def test_without_ray():
    """A typed error where it is missing; samemap and joblib work."""
    program = """
        import sys
        sys.modules["ray"] = None
        import samemap, samemap.ray
        try:
            samemap.ray.install()
        except samemap.UnsupportedEngineError as error:
            print(error)
    """
    assert "ray" in run_script(program)


def test_install_before_init(tmp_path):
    """`install` waits for nothing that isn't there, and holds for what starts then."""
    program = """
        import sys
        import numpy as np, ray, samemap.ray
        from support.dask_tasks import place
        samemap.ray.install()
        array = np.memmap(sys.argv[1], "f8", "w+", shape=(1000,))
        for _ in range(2):
            ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False)
            print(ray.get(ray.remote(place).remote(array)))
            ray.shutdown()
    """
    printed = run_script(program, tmp_path / "data")
    assert printed == "('memmap', 0.0, 'r+')\n" * 2


@pytest.mark.needs_maps
def test_explain(cluster, memmap):
    """What is told of Ray is what happens there."""
    told = samemap.explain(memmap, engine="ray")
    assert told["by_reference"]
    assert (told["writes"], told["installed"]) == ("task", False)
    assert "samemap.ray is not installed" in str(told)
    assert not samemap.explain(np.zeros(3), engine="ray")["by_reference"]
    assert samemap.explain(samemap.zeros(3), engine="ray")["writes"] == "shared"
    samemap.ray.install(write_through=True)
    try:
        told = samemap.explain(memmap, engine="ray")
        assert (told["writes"], told["installed"]) == ("file", True)
    finally:
        samemap.ray.uninstall()
