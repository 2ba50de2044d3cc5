"""dask is left alone until it is asked for, and given back as it was."""

import importlib

import numpy as np
import pytest
import samemap
from support.scripts import run_script

distributed = pytest.importorskip("distributed")

import samemap.dask  # noqa: E402
from dask.sizeof import sizeof  # noqa: E402

serialize = importlib.import_module("distributed.protocol.serialize")


def test_nothing_is_imported():
    """Neither dask nor distributed, by the import or by a call of joblib's."""
    program = """
        import sys, joblib, samemap
        joblib.Parallel(n_jobs=2)(joblib.delayed(abs)(i) for i in range(4))
        print([name for name in ("dask", "distributed") if name in sys.modules])
    """
    assert run_script(program) == "[]\n"


@pytest.mark.parametrize("first", ["samemap", "joblib._dask"])
def test_joblibs_backend_in_any_order(first, tmp_path):
    """samemap may be imported before or after joblib has registered the backend."""
    program = f"""
        import numpy as np
        from joblib import Parallel, delayed, parallel_config
        from distributed import Client, LocalCluster
        from support.dask_tasks import place

        def both(path):
            if {first!r} != "samemap":
                with parallel_config(backend="dask"):
                    Parallel()(delayed(abs)(i) for i in range(2))
            import samemap
            array = np.memmap(path, "f8", "w+", shape=(1000,))[::-1]
            with parallel_config(backend="dask"):
                return Parallel()([delayed(place)(array)] * 2)

        if __name__ == "__main__":
            options = dict(threads_per_worker=1, dashboard_address=None)
            with LocalCluster(2, **options) as cluster, Client(cluster):
                    print(both({str(tmp_path / "data")!r}))
    """
    if first == "samemap":
        program = program.replace("import numpy", "import samemap, numpy", 1)
    assert run_script(program) == f"{[('memmap', 0.0, 'r+')] * 2}\n"


def what_is_in_force():
    arrays = importlib.import_module("dask.array")
    client = distributed.Client
    tables = [serialize.dask_serialize, serialize.dask_deserialize, sizeof]
    for table in tables:
        for cls in (np.ndarray, np.memmap, np.recarray, np.ma.MaskedArray):
            table.dispatch(cls)
    return (
        {
            name: client.__dict__[name]
            for name in ("_graph_to_futures", "_gather_remote")
        },
        [dict(table._lookup) for table in tables],
        dict(serialize.families),
        arrays.from_array,
        arrays.core.from_array,
    )


def test_uninstall_gives_back_everything():
    """Each function and each table is what it was; twice is harmless."""
    before = what_is_in_force()
    samemap.dask.install()
    assert samemap.dask.installed()
    assert what_is_in_force() != before
    samemap.dask.uninstall()
    samemap.dask.uninstall()
    assert not samemap.dask.installed()
    assert what_is_in_force() == before


def test_joblibs_class_is_given_back():
    """`samemap.uninstall` leaves the class of the backend as joblib has made it."""
    import joblib.parallel
    from joblib._dask import DaskDistributedBackend as Backend

    with samemap.disabled():
        joblib.parallel.EXTERNAL_BACKENDS["dask"]()
    samemap.uninstall()
    try:
        before = dict(Backend.__dict__)
        register = joblib.parallel.EXTERNAL_BACKENDS["dask"]
        samemap.install()
        assert dict(Backend.__dict__) != before
        samemap.uninstall()
        assert dict(Backend.__dict__) == before
        assert joblib.parallel.EXTERNAL_BACKENDS["dask"] is register
    finally:
        samemap.install()


@pytest.mark.parametrize("name", ["_graph_to_futures", "_gather_remote", "_run"])
def test_another_distributed_is_not_touched(monkeypatch, name):
    """A typed error says what is missing, before anything is replaced."""
    monkeypatch.delattr(distributed.Client, name)
    before = dict(distributed.Client.__dict__), dict(serialize.families)
    with pytest.raises(samemap.UnsupportedEngineError, match=name):
        samemap.dask.install()
    after = dict(distributed.Client.__dict__), dict(serialize.families)
    assert after == before
    assert not samemap.dask.installed()


def test_without_distributed():
    """A typed error where it is missing; samemap and joblib work."""
    program = """
        import sys
        sys.modules["distributed"] = None
        import samemap, samemap.dask
        try:
            samemap.dask.install()
        except samemap.UnsupportedEngineError as error:
            print(error)
        import joblib
        try:
            joblib.parallel_config(backend="dask")
        except (ImportError, ValueError) as error:
            print(type(error).__name__)
    """
    printed = run_script(program).splitlines()
    assert "distributed" in printed[0]
    assert len(printed) == 2


def test_workers_are_as_they_were(tmp_path):
    """After `uninstall` workers send copies, and clients too."""
    array = np.memmap(tmp_path / "data", "f8", "w+", shape=(1000,))[::-1]
    with (
        distributed.LocalCluster(1, threads_per_worker=1, dashboard_address=None) as c,
        distributed.Client(c) as client,
    ):
        samemap.dask.install(client)
        assert client.submit(_strides, array, pure=False).result(60) == (-8,)
        assert client.run(_is_engaged) == dict.fromkeys(client.nthreads(), True)
        samemap.dask.uninstall()
        assert client.submit(_strides, array, pure=False).result(60) == (8,)
        assert client.run(_is_engaged) == dict.fromkeys(client.nthreads(), False)


def _strides(array):
    return array.strides


def _is_engaged():
    family = importlib.import_module("distributed.protocol.serialize").families
    return family["pickle"][0].__module__.startswith("samemap")


def test_within_the_process(tmp_path):
    """With processes=False everything goes as without samemap."""
    array = np.memmap(tmp_path / "data", "f8", "w+", shape=(1000,))
    with (
        distributed.LocalCluster(
            1, threads_per_worker=1, processes=False, dashboard_address=None
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        stock = client.submit(type, array, pure=False).result(60)
        samemap.dask.install(client)
        try:
            future = client.scatter(array, hash=False)
            assert client.submit(id, future, pure=False).result(60) == id(array)
            assert client.submit(type, array, pure=False).result(60) is stock
            assert client.submit(_mode, array, pure=False).result(60) is None
        finally:
            samemap.dask.uninstall()


def _mode(array):
    return array.mode


def test_asynchronous(tmp_path):
    """A client on an event loop is never waited for; its arrays arrive."""
    program = """
        import asyncio, sys
        import numpy as np, samemap.dask
        from distributed import Client, LocalCluster
        from support.dask_tasks import place

        async def main():
            array = np.memmap(sys.argv[1], "f8", "w+", shape=(1000,))
            async with LocalCluster(
                2, threads_per_worker=1, dashboard_address=None, asynchronous=True
            ) as cluster, Client(cluster, asynchronous=True) as client:
                samemap.dask.install(client)
                told = "memmap", 0.0, None
                while told[2] is None:
                    assert told == ("memmap", 0.0, None)
                    told = await client.submit(place, array, pure=False)
                print(told)
                samemap.dask.uninstall()

        if __name__ == "__main__":
            asyncio.run(main())
    """
    printed = run_script(program, tmp_path / "data")
    assert printed == "('memmap', 0.0, 'r+')\n"


def test_a_map_larger_than_the_memory_limit(tmp_path):
    """The settings that decide about workers are named, once a file."""
    array = np.memmap(tmp_path / "data", "u1", "w+", shape=(500 << 20,))
    with (
        distributed.LocalCluster(
            1, threads_per_worker=1, memory_limit="500 MB", dashboard_address=None
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        samemap.dask.install(client)
        try:
            with pytest.warns(RuntimeWarning, match="memory.terminate"):
                client.submit(np.ndim, array, pure=False).result(60)
        finally:
            samemap.dask.uninstall()


def test_explain(tmp_path):
    """What is told of dask is what happens there."""
    array = np.memmap(tmp_path / "data", "f8", "w+", shape=(1000,))
    told = samemap.explain(array, engine="dask")
    assert told["by_reference"]
    assert told["writes"] == "task"
    assert not told["installed"]
    assert "samemap.dask is not installed" in str(told)
    assert not samemap.explain(np.zeros(3), engine="dask")["by_reference"]
    assert samemap.explain(samemap.zeros(3), engine="dask")["writes"] == "shared"
    with pytest.raises(ValueError, match="engine"):
        samemap.explain(array, engine="abacus")
    samemap.dask.install(write_through=True)
    try:
        told = samemap.explain(array, engine="dask")
        assert (told["writes"], told["installed"]) == ("file", True)
    finally:
        samemap.dask.uninstall()
