"""Putting the reducers into joblib and taking them out again."""

import os

import joblib
import numpy as np
import pytest
import samemap
from joblib import Parallel, delayed
from support.scripts import run_script


def strides(array):
    return array.strides


def nested(array):
    """A worker that starts Parallel itself; processes within processes."""
    from joblib import parallel_config

    with parallel_config(backend="loky", inner_max_num_threads=1):
        inner = Parallel(n_jobs=2)([delayed(strides)(array)] * 2)
    return samemap.installed(), inner


@pytest.fixture
def array(tmp_path):
    """A reversed transpose: stock joblib can't send it."""
    array = np.memmap(tmp_path / "data", np.float64, "w+", shape=(6, 4))
    array[:] = np.arange(24).reshape(6, 4)
    return array.T[::-1]


def run(source, **environment):
    """Run a program in a fresh interpreter; return what it prints."""
    return run_script(source, environment=environment).strip()


def send(backend, array):
    return Parallel(n_jobs=2, backend=backend)([delayed(strides)(array)] * 2)


def test_import_installs():
    """The import alone is enough."""
    assert run("import samemap; print(samemap.installed())") == "True"


def test_environment_switch():
    """SAMEMAP=0 makes the import install nothing; `install` still works."""
    source = """
        import joblib.pool, joblib.executor
        stock = joblib.pool.get_memmapping_reducers
        import samemap
        assert joblib.pool.get_memmapping_reducers is stock
        assert joblib.executor.get_memmapping_reducers is stock
        samemap.install()
        print(samemap.installed(), joblib.pool.get_memmapping_reducers is stock)
    """
    assert run(source, SAMEMAP="0") == "True False"


@pytest.mark.parametrize(
    ("backend", "method"),
    [("loky", ""), ("multiprocessing", ""), ("multiprocessing", "spawn")],
)
def test_installed_in_workers_all_the_same(backend, method):
    """What is installed in spite of SAMEMAP=0 is so in the workers, too."""
    source = f"""
        import samemap
        from joblib import Parallel, delayed

        if __name__ == "__main__":
            before = samemap.installed()
            samemap.install()
            parallel = Parallel(n_jobs=2, backend="{backend}")
            print(before, *parallel([delayed(samemap.installed)()] * 2))
    """
    found = run(source, SAMEMAP="0", JOBLIB_START_METHOD=method)
    assert found == "False True True"


def test_twice_and_back():
    """Installing or uninstalling twice is harmless; stock comes back as it was."""
    source = """
        import joblib.pool, joblib.executor
        names = joblib.pool, joblib.executor
        stock = [m.get_memmapping_reducers for m in names]
        import samemap
        samemap.install(); samemap.install()
        samemap.uninstall(); samemap.uninstall()
        assert [m.get_memmapping_reducers for m in names] == stock
        print(samemap.installed())
    """
    assert run(source) == "False"


def test_blocks(backend, array):
    """`disabled` is stock joblib for a block, `enabled` samemap, nested freely."""
    contiguous = np.ascontiguousarray(array).strides
    with samemap.disabled():
        assert not samemap.installed()
        with samemap.enabled():
            assert send(backend, array) == [array.strides] * 2
        assert send(backend, np.zeros((4, 6))) == [contiguous] * 2
        assert not samemap.installed()
    assert samemap.installed()
    assert send(backend, array) == [array.strides] * 2


def test_block_ends_by_error():
    """The state comes back when the block raises."""
    with pytest.raises(ZeroDivisionError), samemap.disabled():
        raise ZeroDivisionError
    assert samemap.installed()


def test_executor_from_before(array):
    """loky's reusable executor does not keep the reducers of before."""
    with samemap.disabled():
        workers = {*Parallel(n_jobs=2)([delayed(os.getpid)()] * 4)}
    assert send("loky", array) == [array.strides] * 2
    assert workers.isdisjoint(Parallel(n_jobs=2)([delayed(os.getpid)()] * 4))


def test_uninstall_while_an_executor_lives():
    """After `uninstall` the same executor is not used again either."""
    workers = {*Parallel(n_jobs=2)([delayed(os.getpid)()] * 4)}
    with samemap.disabled():
        stock = {*Parallel(n_jobs=2)([delayed(os.getpid)()] * 4)}
    assert workers.isdisjoint(stock)


def test_executor_is_reused(array):
    """Without a change of state loky goes on reusing its workers."""
    first = {*Parallel(n_jobs=2)([delayed(os.getpid)()] * 8)}
    samemap.install()
    assert first & {*Parallel(n_jobs=2)([delayed(os.getpid)()] * 8)}


@pytest.mark.needs_maps
def test_workers_that_start_workers(backend, array):
    """In a worker samemap is installed, and its own Parallel uses it."""
    results = Parallel(n_jobs=2, backend=backend)([delayed(nested)(array)] * 2)
    assert results == [(True, [array.strides] * 2)] * 2


def test_options_travel(array, tmp_path):
    """What was installed in the caller holds in the worker."""
    with samemap.enabled(strict=True), pytest.raises(samemap.StrictError):
        Parallel(n_jobs=2)([delayed(copied_result)(tmp_path / "own")])


def copied_result(path):
    array = np.memmap(path, np.int8, "w+", shape=(10,))
    path.unlink()
    return array


@pytest.mark.parametrize(
    "damage",
    [
        "del joblib.pool.get_memmapping_reducers",
        "joblib.executor.get_memmapping_reducers = lambda x: x",
        "del joblib.executor._executor_args",
        "del joblib.executor.MemmappingExecutor.get_memmapping_executor",
        "del joblib.externals.loky.reusable_executor._executor_lock",
        "joblib.parallel.BatchedCalls.__reduce__ = None",
        "joblib.parallel.BatchedCalls = int",
        "del joblib.externals.loky.process_executor._ExceptionWithTraceback",
    ],
)
def test_unknown_joblib(damage):
    """Other internals: an error that names versions, and joblib untouched."""
    source = f"""
        import joblib, joblib.pool, joblib.executor, joblib.parallel
        {damage}
        before = vars(joblib.pool).copy(), vars(joblib.executor).copy()
        try:
            import samemap
        except ImportError as error:
            print(error)
        assert before == (vars(joblib.pool), vars(joblib.executor))
    """
    found = run(source)
    assert "samemap works with joblib 1.3 to" in found
    assert f"in joblib {joblib.__version__}" in found


def test_bad_option():
    """A misspelt level is refused, and the state stays."""
    with pytest.raises(ValueError, match="'layout' or 'data'"):
        samemap.install(verify="bytes")
    assert samemap.installed()


def test_backend_of_an_absent_library():
    """joblib's own error, and no other, where a backend's library is missing."""
    source = """
        import sys
        sys.modules["dask"] = sys.modules["distributed"] = None
        import samemap
        from joblib import Parallel, parallel_config
        try:
            with parallel_config("dask"):
                pass
        except ValueError as error:
            print("install dask" in str(error))
    """
    assert run_script(source).split() == ["True"]
