"""Queues, pipes and arguments of processes; and how samemap gets in and out of them."""

import contextlib
import gc
import multiprocessing
import os
import pickle
import threading
from concurrent.futures import process
from multiprocessing import connection, managers, pool, queues, reduction

import numpy as np
import pytest
import samemap
import samemap.pools
from samemap.pools import _patches
from support import foreign, pool_tasks
from support.kinds import COUNT
from support.scripts import run_script

slow = pytest.mark.engines
METHODS = ["fork", pytest.param("spawn", marks=slow), "forkserver"]


@pytest.fixture
def installed():
    samemap.pools.install()
    yield
    samemap.pools.uninstall()


@pytest.fixture
def r_plus(memmap_path):
    return np.memmap(memmap_path, np.float64, "r+")


@pytest.fixture(params=METHODS)
def context(request):
    return multiprocessing.get_context(request.param)


@contextlib.contextmanager
def served(context, kind):
    """Give the functions to send to a process, and to receive from it."""
    if kind == "Pipe":
        ours, theirs = context.Pipe()
        target, args = pool_tasks.serve_pipe, (theirs,)
        put, get = ours.send, ours.recv
    else:
        inbox, outbox = getattr(context, kind)(), getattr(context, kind)()
        target, args = pool_tasks.serve_queues, (inbox, outbox)
        put, get = inbox.put, outbox.get
    server = context.Process(target=target, args=args)
    server.start()
    try:
        yield put, get
        put(None)
        server.join(30)
        assert server.exitcode == 0
    finally:
        server.kill()


@pytest.mark.needs_maps
@pytest.mark.parametrize("kind", ["Queue", "SimpleQueue", "JoinableQueue", "Pipe"])
def test_queues(installed, context, kind, r_plus, raw_file):
    """What is put there goes by reference, on pages of the reader's own.

    A file that isn't there any more is raised by `get` or `recv`, and the next arrives.
    """
    before = samemap.stats()["by reference"]["arrays"]
    with served(context, kind) as (put, get):
        for array in (r_plus, r_plus[::-1], np.asarray(r_plus)):
            put(array)
            writeable, found = get()
            assert writeable
            np.testing.assert_array_equal(found, array)
        assert samemap.stats()["by reference"]["arrays"] - before == 3
        # Without a descriptor, by which the file would be found.
        other = raw_file(np.arange(COUNT), "other")
        array = foreign.array_at(foreign.map_at(other, COUNT * 8), COUNT * 8)
        put((pool_tasks.Change("gone", other), array))
        assert isinstance(get(), samemap.BackingNotFoundError)
        put(np.arange(5))
        assert get()[0]
    assert r_plus[0] == 0


@pytest.mark.needs_descriptors
@pytest.mark.parametrize("kind", ["Queue", "Pipe"])
def test_what_has_no_path_is_copied(installed, kind, tmp_path):
    """Nobody knows how long a message waits: an unlinked file goes by value."""
    path = tmp_path / "unlinked"
    np.arange(COUNT, dtype="f8").tofile(path)
    array = np.memmap(path, np.float64, "r+")
    path.unlink()
    with served(multiprocessing.get_context("fork"), kind) as (put, get):
        put(array)
        del array
        np.testing.assert_array_equal(get()[1], np.arange(COUNT))


@pytest.mark.needs_maps
def test_arguments_of_processes(installed, context, r_plus, tmp_path):
    """A process gets its arguments by reference, but what is inherited by a fork."""
    shared = samemap.zeros(COUNT)
    before = samemap.stats()["by reference"]["arrays"]
    starter = context.Process(target=pool_tasks.note, args=(r_plus, shared))
    starter.start()
    starter.join(60)
    assert starter.exitcode == 0
    sent = 0 if context.get_start_method() == "fork" else 2
    assert samemap.stats()["by reference"]["arrays"] - before == sent
    assert shared[0] == r_plus.sum()
    assert shared[1] == 1


@pytest.mark.needs_descriptors
@pytest.mark.parametrize("method", [pytest.param("spawn", marks=slow), "forkserver"])
def test_shared_memory_of_an_argument_is_held(installed, method):
    """A process finds such memory though its starter has dropped the array."""
    context = multiprocessing.get_context(method)
    ours, theirs = context.Pipe()
    starter = context.Process(
        target=pool_tasks.send_total, args=(samemap.share(np.ones(COUNT)), theirs)
    )
    starter.start()
    gc.collect()
    assert ours.poll(60)
    assert ours.recv() == COUNT
    starter.join(60)


# ---- Where it is stock -------------------------------------------------------


def echo_remote(listener):
    with listener.accept() as remote:
        remote.send(remote.recv())


@pytest.mark.parametrize("family", ["AF_INET", "AF_UNIX"])
def test_connections_by_address(installed, family, r_plus):
    """What a listener accepts may be on another host: it gets the array's bytes."""
    address = ("127.0.0.1", 0) if family == "AF_INET" else None
    before = samemap.stats()["by reference"]["arrays"]
    with connection.Listener(address, family) as listener:
        thread = threading.Thread(target=echo_remote, args=(listener,))
        thread.start()
        with connection.Client(listener.address) as client:
            client.send(r_plus)
            back = client.recv()
        thread.join()
    assert back.filename is None
    np.testing.assert_array_equal(back, r_plus)
    assert samemap.stats()["by reference"]["arrays"] >= before


def test_managers(installed, r_plus):
    """A manager keeps what it gets: a copy."""
    with managers.SyncManager(ctx=multiprocessing.get_context("fork")) as manager:
        kept = manager.dict(array=r_plus)
        r_plus[:10] = -1
        np.testing.assert_array_equal(kept["array"][:10], np.arange(10))


def test_own_reducers_win(installed, r_plus, monkeypatch):
    """Who has registered a reducer of arrays with multiprocessing keeps it."""
    reducers = reduction.ForkingPickler._extra_reducers
    monkeypatch.setitem(reducers, np.memmap, lambda array: (str, ("mine",)))
    reader, writer = multiprocessing.Pipe(duplex=False)
    writer.send(r_plus)
    assert reader.recv() == "mine"


def test_joblib_goes_on(installed, r_plus):
    """joblib's pool of multiprocessing has queues of its own, and shares r+."""
    from joblib import Parallel, delayed

    array = np.asarray(r_plus)
    tasks = [delayed(pool_tasks.add_one)(r_plus[i : i + 1]) for i in range(2)]
    assert Parallel(2, backend="multiprocessing")(tasks) == [1, 2]
    assert array[:2].tolist() == [1, 2]


# ---- In and out --------------------------------------------------------------

TOUCHED = [
    queues,
    connection,
    connection._ConnectionBase,
    connection.Connection,
    multiprocessing.popen_spawn_posix,
    multiprocessing.popen_forkserver,
    reduction,
    reduction.ForkingPickler,
    pool,
    pool.Pool,
    process,
    process._SafeQueue,
    process.ProcessPoolExecutor,
    queues.Queue,
    queues.SimpleQueue,
]


def look():
    found = [dict(vars(place)) for place in TOUCHED]
    return [*found, dict(reduction.ForkingPickler._extra_reducers)]


def test_uninstall_gives_back_stock():
    """Not a name is another afterwards, however often it was installed."""
    before = look()
    samemap.pools.install()
    samemap.pools.install(write_through=True)
    assert samemap.pools.installed()
    assert look() != before
    samemap.pools.uninstall()
    samemap.pools.uninstall()
    assert look() == before
    assert not samemap.pools.installed()


@pytest.mark.needs_maps
def test_pools_after_uninstall(r_plus):
    """A pool that was made before goes on as stock's; what it holds is let go."""
    samemap.pools.install()
    with multiprocessing.get_context("fork").Pool(1) as workers:
        assert workers.apply(pool_tasks.total, (r_plus,)) == r_plus.sum()
        samemap.pools.uninstall()
        before = samemap.stats()["by reference"]["arrays"]
        assert workers.apply(pool_tasks.total, (r_plus,)) == r_plus.sum()
        assert samemap.stats()["by reference"]["arrays"] == before


@pytest.mark.needs_maps
def test_pools_before_install(r_plus):
    """A pool that is older than `install` keeps stock's ways, also in new workers."""
    context = multiprocessing.get_context("fork")
    with context.Pool(1, maxtasksperchild=1) as workers:
        workers.apply(pool_tasks.echo, (1,))
        samemap.pools.install()
        try:
            for _ in range(3):
                back = workers.apply(pool_tasks.echo, (r_plus,))
                np.testing.assert_array_equal(back, r_plus)
            path = os.fspath(r_plus.filename)
            with pytest.raises(samemap.BackingTruncatedError):
                workers.apply_async(pool_tasks.open_map, (path, "truncated")).get(60)
            assert workers.apply_async(pool_tasks.echo, (5,)).get(60) == 5
        finally:
            samemap.pools.uninstall()


CHANGES = [
    (queues, "_ForkingPickler", pickle.Pickler, "pickles otherwise"),
    (connection, "_ForkingPickler", pickle.Pickler, "pickles otherwise"),
    (process, "_CallItem", lambda a, b: None, "_CallItem takes a, b"),
    (process, "_ResultItem", lambda: None, "_ResultItem takes"),
    (process._SafeQueue, "get", lambda self: None, "take their calls otherwise"),
    (pool, "worker", lambda queue: None, "worker takes queue"),
    (pool.Pool, "_setup_queues", lambda self, n: None, "_setup_queues takes self, n"),
    (connection._ConnectionBase, "send", lambda self: None, "send takes self"),
    (connection._ConnectionBase, "_check_closed", None, "no _check_closed"),
    (multiprocessing.popen_spawn_posix, "reduction", None, "starts processes"),
    (_patches.sys, "version_info", (3, 99), "were not tried"),
]


@pytest.mark.parametrize(
    ("place", "name", "value", "text"), CHANGES, ids=[c[1] for c in CHANGES]
)
def test_other_internals(monkeypatch, place, name, value, text):
    """Internals that are not as expected are a typed error, and nothing is touched."""
    monkeypatch.setattr(place, name, value, raising=False)
    before = look()
    try:
        with pytest.raises(samemap.UnsupportedEngineError, match=text):
            samemap.pools.install()
    finally:
        samemap.pools.uninstall()
    assert look() == before
    assert not samemap.pools.installed()


def test_nothing_is_imported_unasked():
    """`import samemap` neither imports the pools' part nor changes a pickler."""
    run_script("""
        import sys
        import samemap
        assert "samemap.pools" not in sys.modules
        from multiprocessing import queues, reduction
        assert queues._ForkingPickler is reduction.ForkingPickler
        assert samemap.pools.installed() is False
        try:
            samemap.no_such_engine
        except AttributeError as error:
            assert "no_such_engine" in str(error)
    """)
