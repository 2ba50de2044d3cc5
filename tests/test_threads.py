"""Many threads on the same and on different maps, while files come and go."""

import pickle
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import samemap
from samemap import _core
from samemap._batches import pool_pickler
from samemap._envelope import Writer, read_tasks
from samemap._tables import Options, make_table
from support.foreign import array_at, map_at
from support.references import ELSEWHERE, elsewhere, reference, token

THREADS = 32
ROUNDS = 60


def check(array):
    expected = array.tolist()
    # As another process would read it, and as this one does.
    data = samemap.dumps([array, array[::-1]])
    for message in (data, data.replace(token(array)[:8], ELSEWHERE[:8])):
        first, second = pickle.loads(message)
        assert first.tolist() == expected
        assert second.tolist() == expected[::-1]
        assert np.shares_memory(first, second)


@pytest.mark.needs_descriptors
def test_threads(tmp_path):
    """Each thread gets its arrays, whatever the others map, unlink and replace."""
    common = np.memmap(tmp_path / "common", np.int64, "w+", shape=(1000,))
    common[:] = np.arange(1000)
    together = threading.Barrier(THREADS)

    def work(number):
        path = tmp_path / f"file{number % 7}-{number}"
        together.wait(timeout=60)
        for i in range(ROUNDS):
            own = np.memmap(path, np.int64, "w+", shape=(50,))
            own[:] = number * 1000 + i
            check(own)
            check(common[number : number + 60])
            if i % 3 == 0:
                path.unlink()
                check(own)
            elif i % 3 == 1:
                path.rename(path.with_suffix(".old"))
                check(own)
        return number

    with ThreadPoolExecutor(THREADS) as pool:
        assert list(pool.map(work, range(THREADS))) == list(range(THREADS))
    assert common.tolist() == list(range(1000))


def on_mmap(path):
    return np.memmap(path, np.int64, "r")


def on_foreign_memory(path):
    return array_at(map_at(path, 800), 800)


@pytest.mark.needs_maps
@pytest.mark.parametrize("make", [on_mmap, on_foreign_memory])
def test_one_token(tmp_path, make):
    """Threads that meet a new map at once send the same one."""
    path = tmp_path / "file"
    path.write_bytes(bytes(800))
    together = threading.Barrier(8)

    def token_at_once(array):
        together.wait(timeout=60)
        return token(array)

    with ThreadPoolExecutor(8) as pool:
        for _ in range(ROUNDS):
            assert len({*pool.map(token_at_once, [make(path)] * 8)}) == 1


@pytest.mark.needs_maps
def test_errors_stay_in_their_thread(tmp_path):
    """What can't be loaded in one thread is no matter of the others."""
    array = np.memmap(tmp_path / "file", np.int64, "w+", shape=(10,))
    arguments = reference(array)
    together = threading.Barrier(8)

    def read(number):
        found = []
        for _ in range(ROUNDS):
            together.wait(timeout=60)
            try:
                elsewhere(arguments, path=b"/gone" if number % 2 else arguments["path"])
                found.append(None)
            except samemap.BackingNotFoundError as error:
                found.append(type(error))
        return {*found}

    with ThreadPoolExecutor(8) as pool:
        expected = [{None}, {samemap.BackingNotFoundError}] * 4
        assert list(pool.map(read, range(8))) == expected


@pytest.mark.needs_pagemap
def test_tasks_in_threads(tmp_path):
    """Tasks of one batch that start at once in threads have arrays of their own."""
    path = tmp_path / "file"
    np.arange(3000).tofile(path)
    array = np.memmap(path, np.int64, "c")
    array[5] = -5
    tasks = [(add_to_all, (array, array[::-1], i), {}) for i in range(THREADS)]
    writer = Writer(pool_pickler, make_table(Options()))
    held = []
    loaded = read_tasks(writer.write_tasks(tasks, held))
    together = threading.Barrier(THREADS)
    expected = array.tolist()

    def work(number):
        function, args, kwargs = loaded[number]
        together.wait(timeout=60)
        return function(*args, **kwargs) == [x + number for x in expected[::-1]]

    with ThreadPoolExecutor(THREADS) as pool:
        assert all(pool.map(work, range(THREADS)))
    assert array.tolist() == expected


def add_to_all(array, view, number):
    array += number
    return view.tolist()


@pytest.mark.needs_descriptors
@pytest.mark.needs_pagemap
def test_lost_writes_of_tasks_in_threads():
    """A task counts its own maps, though another began before it and has ended."""
    writer = Writer(pool_pickler, make_table(Options(), backward=True))
    message, receipts = writer.write_results([np.zeros(200_000)])
    assert receipts
    running = threading.Event(), threading.Event()

    def early():
        running[0].set()
        assert running[1].wait(timeout=60)

    def late(thread):
        running[1].set()
        thread.join(timeout=60)
        [array] = pickle.loads(message)
        array[:] = 1
        return array

    _core.take_lost()
    thread = threading.Thread(target=_core.run, args=(early, (), {}))
    thread.start()
    assert running[0].wait(timeout=60)
    array = _core.run(late, (thread,), {})
    assert array.all()
    assert _core.take_lost()[0] == 1
    for receipt in receipts:
        assert _core.acknowledge(*receipt)
