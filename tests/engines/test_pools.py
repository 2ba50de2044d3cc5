"""The standard library's pools: arrays by reference, in every way to start a worker."""

import contextlib
import copyreg
import gc
import multiprocessing
import operator
import os
import pickle
import sys
import threading
import time
import weakref
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from types import SimpleNamespace

import numpy as np
import pytest
import samemap
import samemap.pools
from samemap import _core
from samemap.pools import _messages, _patches
from support import foreign, layouts, pool_tasks
from support.equality import differences, fingerprint
from support.kinds import COUNT, KINDS, plain

LARGE = 1 << 18  # float64: 2 MB
TIMEOUT = 60

slow = pytest.mark.engines
EVERY = [
    ("pool", "fork"),
    ("executor", "fork"),
    pytest.param(("pool", "spawn"), marks=slow),
    pytest.param(("executor", "spawn"), marks=slow),
    pytest.param(("pool", "forkserver"), marks=slow),
    pytest.param(("executor", "forkserver"), marks=slow),
]


@pytest.fixture(scope="module", autouse=True)
def installed():
    samemap.pools.install()
    yield
    samemap.pools.uninstall()


class Workers:
    """A pool or an executor of two workers, behind one face."""

    def __init__(self, kind, method):
        self.kind = kind
        self.context = multiprocessing.get_context(method)
        if kind == "pool":
            self.pool = self.context.Pool(2)
        else:
            self.pool = ProcessPoolExecutor(2, mp_context=self.context)

    def submit(self, function, *args):
        """Return a function that waits for the result."""
        if self.kind == "pool":
            result = self.pool.apply_async(function, args)
            return lambda: result.get(TIMEOUT)
        future = self.pool.submit(function, *args)
        return lambda: future.result(TIMEOUT)

    def run(self, function, *args):
        return self.submit(function, *args)()

    def map(self, function, items, chunksize):
        return list(self.pool.map(function, items, chunksize=chunksize))

    def end(self):
        if self.pool is None:
            return
        if self.kind == "pool":
            self.pool.terminate()
            self.pool.join()
        else:
            self.pool.shutdown()


@pytest.fixture(scope="module", params=EVERY, ids="-".join)
def workers(request):
    """Both kinds of pools, with every start method."""
    workers = Workers(*request.param)
    yield workers
    workers.end()


@pytest.fixture(params=["pool", "executor"])
def new_workers(request):
    """A new one, forked, of each kind."""
    workers = Workers(request.param, "fork")
    yield workers
    workers.end()


@contextlib.contextmanager
def counted(kind="by reference", arrays=1):
    """So many arrays more go in this way in the block."""
    before = samemap.stats()[kind]["arrays"]
    yield
    assert samemap.stats()[kind]["arrays"] - before == arrays


@pytest.fixture
def r_plus(memmap_path):
    return np.memmap(memmap_path, np.float64, "r+")


# ---- Arguments ---------------------------------------------------------------


@pytest.mark.needs_descriptors
@pytest.mark.needs_pagemap
@pytest.mark.parametrize(
    "expressions", [layouts.FILES + layouts.PRIVATE, layouts.VIEWS]
)
def test_layouts(workers, tmp_path, expressions):
    """Every layout arrives as it is, and comes back with the same bytes."""
    if expressions is layouts.VIEWS:
        path = tmp_path / "data"
        path.write_bytes(layouts.random_bytes())
        flat = layouts.by_memmap(path)
        arrays = [layouts.view(flat, expression) for expression in expressions]
    else:
        arrays = [layouts.open_file(tmp_path, expression) for expression in expressions]
    # Items of no bytes ("S0") are left to NumPy.
    with counted(arrays=sum(array.itemsize > 0 for array in arrays)):
        found = workers.run(pool_tasks.fingerprints, arrays)
    expected = [fingerprint(array) for array in arrays]
    wrong = {
        expression: differences(sent, arrived)
        for expression, sent, arrived in zip(expressions, expected, found, strict=True)
        if sent != arrived
    }
    assert not wrong
    back = workers.run(pool_tasks.echo, arrays)
    for sent, array in zip(expected, back, strict=True):
        arrived = fingerprint(array)
        for name in ("dtype", "shape", "sha256"):
            # NumPy's own pickle brings what isn't contiguous into native order.
            if sent["dtype"] == arrived["dtype"] or name == "shape":
                assert sent[name] == arrived[name]


@pytest.mark.needs_descriptors
@pytest.mark.needs_pagemap
@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_written_through(workers, tmp_path, kind):
    """A task writes to its own pages: neither file nor caller see it, nor the next."""
    if KINDS[kind].missing():
        pytest.skip(KINDS[kind].missing())
    with contextlib.ExitStack() as stack:
        array = KINDS[kind].make(tmp_path / "numbers", COUNT, stack)
        before = np.array(plain(array))
        for _ in range(2):
            writeable, found = workers.run(pool_tasks.overwrite, array)
            np.testing.assert_array_equal(found, before)
            assert writeable == plain(array).flags.writeable
        np.testing.assert_array_equal(plain(array), before)
        # Fields of astropy hold the file open.
        del array
        gc.collect()


@pytest.mark.needs_maps
def test_tasks_of_a_chunk_are_apart(workers, r_plus):
    """Views of one map in one message don't see each other's writes."""
    views = [r_plus[:100], r_plus[:50], np.asarray(r_plus), r_plus[:5][::-1]]
    found = workers.map(pool_tasks.add_one, views, len(views))
    assert found == [1, 1, 1, 5]


@pytest.mark.needs_maps
def test_write_through(memmap_path):
    """Asked for, what a task writes to an np.memmap of mode r+ is in the file."""
    samemap.pools.install(write_through=True)
    try:
        workers = Workers("executor", "fork")
        array = np.memmap(memmap_path, np.float64, "r+")
        workers.run(pool_tasks.add_one, array)
        workers.end()
    finally:
        samemap.pools.install()
    assert array[0] == 1


@pytest.mark.needs_descriptors
def test_memory_made_to_be_shared(workers):
    """All tasks fill one array of `samemap.zeros`."""
    array = samemap.zeros(COUNT)
    waits = [workers.submit(pool_tasks.fill, array, start) for start in (0, 1)]
    for wait in waits:
        wait()
    np.testing.assert_array_equal(array, np.arange(COUNT) % 2)


@pytest.mark.needs_descriptors
def test_large_array_in_memory(workers):
    """It goes by a memory file, writeable, each task's own, and never stale."""
    array = np.arange(LARGE, dtype="f8")
    for number in range(3):
        array[0] = number
        with counted("exported"):
            writeable, found = workers.run(pool_tasks.overwrite, array)
        assert writeable
        np.testing.assert_array_equal(found, array)
    # The last is small enough for a copy.
    with counted("exported", 3):
        views = [array[10:], array, array[::-1], array[::2]]
        found = workers.map(pool_tasks.add_one, views, len(views))
    assert found == [11, 3, LARGE, 3]
    assert array[1] == 1


@pytest.mark.needs_descriptors
def test_no_more_memory_files_than_workers_take(tmp_path, monkeypatch):
    """Of arrays from a generator few are made before workers have their turn."""
    waits = threading.Event()

    def sleep(seconds):
        waits.set()
        time.sleep(seconds)

    monkeypatch.setattr(_patches, "time", SimpleNamespace(sleep=sleep))
    made = []

    def make_arrays(count):
        for number in range(count):
            made.append(number)
            yield tmp_path / "open", np.full(LARGE, float(number))

    unread = os.cpu_count() or 1
    with multiprocessing.get_context("fork").Pool(2) as pool:
        results = pool.imap(pool_tasks.total_behind, make_arrays(unread + 20))
        assert waits.wait(TIMEOUT)
        # Both workers have one, and one more is to be sent.
        assert len(made) <= 2 + unread + 1
        (tmp_path / "open").touch()
        expected = [LARGE * number for number in range(unread + 20)]
        assert [results.next(TIMEOUT) for _ in expected] == expected


@pytest.mark.needs_descriptors
def test_memory_can_be_left_out():
    """With memory=False arrays in ordinary memory are pickled, both ways."""
    samemap.pools.install(memory=False)
    try:
        workers = Workers("executor", "fork")
        with counted("exported", 0):
            back = workers.run(pool_tasks.echo, np.ones(LARGE))
        workers.end()
    finally:
        samemap.pools.install()
    assert not isinstance(back.base, memoryview)
    assert back.flags.owndata or isinstance(back.base, (bytes, bytearray))


# ---- Results -----------------------------------------------------------------


@pytest.mark.needs_descriptors
def test_large_results(workers):
    """Large results come by memory files, in memory of the caller's own."""
    array = workers.run(pool_tasks.make, LARGE)
    np.testing.assert_array_equal(array, np.arange(LARGE))
    assert not array.flags.owndata
    array[:] = 0
    whole, reverse, half = workers.run(pool_tasks.make_views, LARGE)
    np.testing.assert_array_equal(reverse, np.arange(LARGE)[::-1])
    whole[:] = -1
    np.testing.assert_array_equal(half, np.arange(LARGE // 2))
    assert reverse[-1] == 0


@pytest.mark.needs_maps
def test_mapped_results(workers, memmap_path, r_plus):
    """A read-only map, and an argument, are references to their files."""
    back = workers.run(pool_tasks.open_map, memmap_path, None)
    assert os.fspath(back.filename) == os.fspath(memmap_path)
    assert not back.flags.writeable
    np.testing.assert_array_equal(back, r_plus)
    back = workers.run(pool_tasks.echo, r_plus[::-1])
    assert os.fspath(back.filename) == os.fspath(memmap_path)
    np.testing.assert_array_equal(back, r_plus[::-1])
    back[:] = 0
    assert r_plus[5] == 5


def test_scratch_files(workers, tmp_path):
    """A worker uses its scratch file again: the results that it returned stay."""
    path = tmp_path / "scratch"
    found = [workers.run(pool_tasks.scratch, path, i, COUNT) for i in range(3)]
    for number, array in enumerate(found):
        np.testing.assert_array_equal(array, number)


def test_array_in_an_exception(workers, r_plus):
    """An exception brings its arrays."""
    with pytest.raises(ValueError, match="with an array") as raised:
        workers.run(pool_tasks.raise_with, r_plus)
    np.testing.assert_array_equal(raised.value.args[1], r_plus)


# ---- Failures ----------------------------------------------------------------


@pytest.mark.needs_maps
@pytest.mark.parametrize("how", pool_tasks.ERRORS)
def test_argument_can_not_be_loaded(workers, memmap_path, how):
    """The error is that of the task, typed, and the pool goes on."""
    # Without a descriptor, by which the file would be found.
    address = foreign.map_at(memmap_path, COUNT * 8)
    array = foreign.array_at(address, COUNT * 8)
    with pytest.raises(pool_tasks.ERRORS[how]) as raised:
        workers.run(pool_tasks.echo, pool_tasks.Change(how, memmap_path), array)
    assert raised.value.path == os.fspath(memmap_path)
    assert workers.run(pool_tasks.echo, 5) == 5


@pytest.mark.needs_descriptors
@pytest.mark.parametrize("how", ["gone", "replaced"])
def test_file_is_found_by_its_map(workers, memmap_path, r_plus, how):
    """A file that lost its name on the way is reached by the caller's own map."""
    change = pool_tasks.Change(how, memmap_path)
    _, back = workers.run(pool_tasks.echo, change, r_plus)
    np.testing.assert_array_equal(back, r_plus)


@pytest.mark.needs_maps
@pytest.mark.parametrize("how", pool_tasks.ERRORS)
def test_result_can_not_be_loaded(workers, memmap_path, how):
    """The same for what a task returns."""
    with pytest.raises(pool_tasks.ERRORS[how]) as raised:
        workers.run(pool_tasks.open_map, memmap_path, how)
    assert raised.value.path == os.fspath(memmap_path)
    assert workers.run(pool_tasks.echo, 5) == 5


@pytest.mark.needs_maps
def test_argument_can_not_be_sent(workers, memmap_path, r_plus):
    """A file that was truncated before is an error, where a copy would crash."""
    os.truncate(memmap_path, 100)
    with pytest.raises(samemap.BackingTruncatedError):
        workers.run(pool_tasks.total, r_plus)
    assert workers.run(pool_tasks.echo, 5) == 5


@pytest.mark.needs_maps
def test_result_can_not_be_sent(workers, memmap_path):
    """The same in a worker, which may not look at the value."""
    with pytest.raises(samemap.BackingTruncatedError):
        workers.run(pool_tasks.shortened, memmap_path)
    assert workers.run(pool_tasks.echo, 5) == 5


@pytest.mark.needs_maps
def test_file_of_an_inherited_map_was_truncated(new_workers, memmap_path):
    """A forked worker has the map from before, and looks at the file all the same."""
    array = np.memmap(memmap_path, np.float64, "r")
    assert new_workers.run(pool_tasks.total, array) == array.sum()
    arguments = pool_tasks.Change("truncated", memmap_path), array
    with pytest.raises(samemap.BackingTruncatedError):
        new_workers.run(pool_tasks.echo, *arguments)


@pytest.mark.needs_descriptors
def test_killed_worker(new_workers, r_plus):
    """An executor is broken, as in stock; a pool loses the task and goes on.

    What was held for the task is let go with the pool.
    """
    array = np.ones(LARGE)
    if new_workers.kind == "executor":
        with pytest.raises(BrokenProcessPool):
            new_workers.run(pool_tasks.kill, array, r_plus)
    else:
        new_workers.submit(pool_tasks.kill, array, r_plus)
        assert new_workers.run(pool_tasks.total, array) == LARGE
        assert _messages._holds
    new_workers.end()
    new_workers.pool = None
    gc.collect()
    assert not _messages._holds


# ---- Lifetimes ---------------------------------------------------------------


@pytest.mark.needs_descriptors
def test_arguments_are_held(workers, tmp_path):
    """What has no path is kept for the task, and not longer."""
    path = tmp_path / "unlinked"
    np.arange(COUNT, dtype="f8").tofile(path)
    array = np.memmap(path, np.float64, "r+")
    path.unlink()
    expected, owner = float(array.sum()), weakref.ref(array._mmap)
    with counted():
        wait = workers.submit(pool_tasks.total, array)
        del array
        assert wait() == expected
    del wait
    # The executor's thread, and the pool's, let go of them a moment later.
    workers.run(pool_tasks.echo, 1)
    gc.collect()
    assert owner() is None
    assert not _messages._holds


@pytest.mark.needs_descriptors
def test_memory_files_are_held(workers, tmp_path):
    """A memory file is there until the task has its arrays, whoever forgets images."""
    before = samemap.stats()["exported"]["arrays"]
    wait = workers.submit(
        pool_tasks.echo, pool_tasks.Gate(tmp_path / "open"), np.ones(LARGE)
    )
    while samemap.stats()["exported"]["arrays"] == before:
        time.sleep(0.001)
    # The thread that counted it goes on to hold it.
    end = time.monotonic() + 5
    while not _messages._holds and time.monotonic() < end:
        time.sleep(0.001)
    _core.forget_images()
    (tmp_path / "open").touch()
    assert wait()[1].sum() == LARGE


@slow
@pytest.mark.needs_descriptors
def test_nothing_is_left(new_workers, r_plus):
    """100 rounds leave no descriptor and no map, in caller and worker."""
    array = np.ones(LARGE)

    def rounds():
        for _ in range(50):
            new_workers.run(pool_tasks.add_one, r_plus)
            new_workers.run(pool_tasks.add_one, array)
            new_workers.run(pool_tasks.make, LARGE)
        # Both workers are asked for.
        waits = [new_workers.submit(pool_tasks.count_open) for _ in range(20)]
        found = [max(column) for column in zip(*(w() for w in waits), strict=True)]
        gc.collect()
        return [*found, *pool_tasks.count_open()]

    rounds()
    before = rounds()
    assert all(now <= then + 4 for now, then in zip(rounds(), before, strict=True))


@pytest.mark.needs_descriptors
def test_no_thread_while_a_task_runs(new_workers):
    """A worker waits for receipts in a thread, which is gone when a task begins."""
    for _ in range(3):
        waits = [new_workers.submit(pool_tasks.make, LARGE) for _ in range(4)]
        for wait in waits:
            wait()
        system, threads = new_workers.run(pool_tasks.count_threads)
        # An executor's worker has none; the pool's neither.
        assert threads == 1
        assert system >= 1


# ---- What is not touched -----------------------------------------------------


def plain_task(*args):
    return 0, 3, pool_tasks.echo, args, {}


@pytest.mark.parametrize(
    "expression",
    ["5", "'text'", "np.arange(5)", "np.arange(5)[::-2]", "[1, {}, np.float64(1)]"],
)
def test_messages_without_references_are_stock(expression):
    """No envelope and no other byte, unless something goes by reference."""
    obj = eval(expression)
    messages = _messages.Messages(_messages.Options())
    stock = multiprocessing.reduction.ForkingPickler.dumps
    call = _messages._CallItem(3, pool_tasks.echo, (obj,), {})
    item = _messages._ResultItem(3, result=obj)
    for made in (obj, call, item):
        assert bytes(messages.dumps(made)) == bytes(stock(made))
    data, hold = messages.task(plain_task(obj))
    assert bytes(data) == bytes(stock(plain_task(obj)))
    assert hold is None
    result = (0, 3, (True, obj))
    assert bytes(messages.result(result)) == bytes(stock(result))


@pytest.mark.needs_maps
def test_executor_that_is_older(r_plus):
    """It goes on as it began: by value, without samemap."""
    samemap.pools.uninstall()
    try:
        workers = Workers("executor", "fork")
        workers.run(pool_tasks.echo, 1)
    finally:
        samemap.pools.install()
    filename = workers.run(operator.attrgetter("filename"), r_plus)
    workers.end()
    assert filename is None


def test_workers_are_told(workers):
    """A worker does the same for its results, however it was started."""
    assert workers.run(pool_tasks.is_installed)


def test_pickles_on_disk_are_data(r_plus, tmp_path):
    """Who uses the pickler of multiprocessing by himself gets the array's bytes."""
    pickler = multiprocessing.reduction.ForkingPickler
    with open(tmp_path / "pickle", "wb") as file:
        pickler(file).dump(r_plus)
    written = [(tmp_path / "pickle").read_bytes(), bytes(pickler.dumps(r_plus))]
    assert written == [pickle.dumps(r_plus, pickle.DEFAULT_PROTOCOL)] * 2


def test_executors_of_several_threads(monkeypatch):
    """A call finds its executor's work while another thread makes executors."""
    monkeypatch.setattr(_patches, "_call_queues", weakref.WeakSet())
    # What an executor does, without the queue.
    stock = _patches._SafeQueue, "__init__"
    monkeypatch.setitem(_patches._stock, stock, lambda queue: None)
    made, errors = [], []

    def make_queues():
        for number in range(20_000):
            queue = CallQueue()
            _patches._init_call_queue(queue)
            made[number % 50 :] = [queue]

    def find():
        call = _messages._CallItem(1, pool_tasks.echo, (), {})
        while maker.is_alive():
            try:
                _patches._find_work(call)
            except RuntimeError as error:
                errors.append(error)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        maker = threading.Thread(target=make_queues)
        maker.start()
        find()
        maker.join()
    finally:
        sys.setswitchinterval(interval)
    assert not errors


class CallQueue:
    def __init__(self):
        self.pending_work_items = {}


def reduce_to_shape(array):
    return tuple, (array.shape,)


@pytest.mark.needs_maps
@pytest.mark.parametrize(
    "register", [copyreg.pickle, multiprocessing.reduction.ForkingPickler.register]
)
def test_reducers_of_the_user(workers, r_plus, monkeypatch, register):
    """What the user has registered for a class wins."""
    pickler = multiprocessing.reduction.ForkingPickler
    for table in (copyreg.dispatch_table, pickler._extra_reducers):
        monkeypatch.setitem(table, np.memmap, None)
        monkeypatch.delitem(table, np.memmap)
    register(np.memmap, reduce_to_shape)
    assert workers.run(pool_tasks.echo, r_plus) == r_plus.shape


class Marked(np.ndarray):
    pass


def test_registered_classes(workers, r_plus):
    """A class that is registered when pools exist goes by reference from then on."""
    array = r_plus.view(Marked)
    with counted(arrays=0):
        assert workers.run(pool_tasks.total, array) == r_plus.sum()
    samemap.register(Marked)
    try:
        with counted():
            assert workers.run(pool_tasks.total, array) == r_plus.sum()
    finally:
        del samemap._subclasses._known[Marked]
        samemap.pools.install()
