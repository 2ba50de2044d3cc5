"""Blocks of `enabled` and `disabled` count for their thread or context."""

import asyncio
import os
import threading
from concurrent.futures import ThreadPoolExecutor

import joblib.executor
import joblib.pool
import numpy as np
import pytest
import samemap
from joblib import Parallel, delayed
from samemap import _switch
from support.scripts import run_script

WAIT = 60  # seconds, for events that come at once where all is well
NAMES = [
    (joblib.pool, "get_memmapping_reducers"),
    (joblib.executor, "get_memmapping_reducers"),
]


def replaced():
    return [getattr(owner, name) for owner, name in NAMES]


def strides(array):
    return array.strides


@pytest.fixture
def array(tmp_path):
    """A transpose, which stock joblib sends with other strides."""
    array = np.memmap(tmp_path / "data", np.float64, "w+", shape=(6, 4))
    array[:] = np.arange(24).reshape(6, 4)
    return array.T


@pytest.fixture
def other():
    """Another thread, which runs one function after the other."""
    with ThreadPoolExecutor(1) as executor:
        yield lambda *call: executor.submit(*call).result(WAIT)


class Block:
    """A block that is entered and left by calls, in whatever thread."""

    def __init__(self, block):
        self.block = block

    def enter(self):
        self.block.__enter__()

    def leave(self):
        self.block.__exit__(None, None, None)


@pytest.mark.parametrize("block", [samemap.enabled, samemap.disabled])
@pytest.mark.parametrize("on", [True, False])
def test_interleaved_blocks(other, block, on):
    """Two threads enter and leave, first in, first out: all is as it was."""
    if not on:
        samemap.uninstall()
    try:
        before = replaced()
        mine, others = Block(block()), Block(block())
        mine.enter()
        other(others.enter)
        mine.leave()
        assert other(samemap.installed) == (block is samemap.enabled)
        assert samemap.installed() == on
        other(others.leave)
        assert other(samemap.installed) == samemap.installed() == on
        assert replaced() == before
    finally:
        samemap.install()


def test_a_block_is_its_threads_own(other, array):
    """Another thread's call in the middle of a block is not concerned, nor its pool."""
    call = (Parallel(n_jobs=2), [delayed(strides)(array)] * 2)
    with samemap.disabled():
        for _ in range(2):
            assert not samemap.installed()
            assert call[0](call[1]) != [array.strides] * 2
            assert other(samemap.installed)
            assert other(*call) == [array.strides] * 2
            assert call[0](call[1]) != [array.strides] * 2


@pytest.mark.parametrize("backend", ["loky", "multiprocessing"])
def test_at_the_same_time(backend, array):
    """Calls of two threads overlap, one in a block: each gets what it asked for."""
    inside, go_on = threading.Event(), threading.Event()
    found = {}

    def tasks():
        yield delayed(strides)(array)
        inside.set()
        assert go_on.wait(WAIT)
        for _ in range(20):
            yield delayed(strides)(array)

    def call():
        options = {"n_jobs": 2, "backend": backend, "pre_dispatch": 2, "batch_size": 1}
        found["on"] = Parallel(**options)(tasks())

    thread = threading.Thread(target=call)
    thread.start()
    try:
        assert inside.wait(WAIT)
        with samemap.disabled():
            stock = Parallel(n_jobs=2, backend=backend)([delayed(strides)(array)] * 2)
    finally:
        go_on.set()
        thread.join(WAIT)
    assert array.strides not in stock
    assert found["on"] == [array.strides] * 21


def test_options_of_two_threads(other):
    """Executors are reused by those of the same options only."""
    call = (Parallel(n_jobs=2), [delayed(os.getpid)()] * 8)
    mine = {*call[0](call[1])}
    assert mine & {*other(*call)}
    others = Block(samemap.enabled(strict=True))
    other(others.enter)
    strict = {*other(*call)}
    assert mine.isdisjoint(strict)
    assert strict & {*other(*call)}
    assert strict.isdisjoint(call[0](call[1]))
    other(others.leave)


def test_executor_that_could_not_be_made(monkeypatch):
    """After an error the executor of other options is not taken for this one's."""
    tasks = [delayed(os.getpid)()] * 8
    before = {*Parallel(n_jobs=2)(tasks)}
    with samemap.enabled(strict=True):
        with monkeypatch.context() as patch:
            patch.setattr(joblib.executor, "get_memmapping_reducers", None)
            with pytest.raises(TypeError):
                Parallel(n_jobs=2)(tasks)
        assert before.isdisjoint(Parallel(n_jobs=2)(tasks))


def test_tasks_of_asyncio():
    """Two tasks of one thread are in their own blocks."""

    async def one(block, entered, left):
        with block:
            entered.set()
            await left.wait()
            return samemap.installed()

    async def both():
        events = [asyncio.Event() for _ in range(4)]
        first = asyncio.create_task(one(samemap.disabled(), *events[:2]))
        second = asyncio.create_task(one(samemap.enabled(), *events[2:]))
        await events[0].wait()
        await events[2].wait()
        seen = [samemap.installed()]
        events[1].set()
        seen.append(await first)
        events[3].set()
        seen.append(await second)
        return seen

    assert asyncio.run(both()) == [True, False, True]
    assert samemap.installed()


def test_uninstall_gives_the_names_back():
    """Outside any block joblib has its own functions again, every one."""
    source = """
        import joblib.executor, joblib.pool
        owners = joblib.pool, joblib.executor, joblib.executor.MemmappingExecutor
        before = [dict(vars(owner)) for owner in owners]
        import samemap
        changed = [dict(vars(owner)) != b for owner, b in zip(owners, before)]
        with samemap.disabled():
            pass
        samemap.uninstall()
        print(changed, [dict(vars(owner)) for owner in owners] == before)
        with samemap.enabled():
            with samemap.disabled():
                samemap.install()
                samemap.uninstall()
            print(joblib.pool.get_memmapping_reducers.__wrapped__ is not None)
        print([dict(vars(owner)) for owner in owners] == before)
    """
    assert run_script(source).split("\n")[:3] == [
        "[True, True, True] True",
        "True",
        "True",
    ]


def test_install_in_a_block():
    """`install` and `uninstall` are about the process; the block has its own word."""
    with samemap.disabled():
        samemap.uninstall()
        samemap.install()
        assert not samemap.installed()
    assert samemap.installed()
    try:
        with samemap.enabled(strict=True):
            samemap.uninstall()
            assert _switch.current_options().strict
        assert not samemap.installed()
    finally:
        samemap.install()


def test_worker_forked_in_a_block():
    """A worker goes on as the tasks' sender, whatever block the fork was in."""
    assert samemap.installed()
    with samemap.disabled():
        pid = os.fork()
        if pid == 0:
            _switch.adopt(_switch.make_options(None, True))
            as_sent = _switch.current_options() == _switch.make_options(None, True)
            os._exit(0 if as_sent else 1)
        assert os.waitpid(pid, 0)[1] == 0


def test_fork_while_another_thread_installs():
    """The child of a fork is not held up by a lock of a thread it doesn't have."""
    holding, done = threading.Event(), threading.Event()

    def hold():
        with _switch._lock:
            holding.set()
            done.wait(WAIT)

    thread = threading.Thread(target=hold)
    thread.start()
    assert holding.wait(WAIT)
    pid = os.fork()
    if pid == 0:
        import signal

        signal.alarm(20)
        samemap.install(strict=True)
        os._exit(0)
    done.set()
    thread.join(WAIT)
    assert os.waitpid(pid, 0)[1] == 0


@pytest.mark.parametrize("keyword", ["strict", "write_through"])
def test_options(keyword):
    """`install` and `enabled` take the same options."""
    with samemap.enabled(**{keyword: True}):
        assert getattr(_switch.current_options(), keyword) is True
    assert getattr(_switch.current_options(), keyword) is False
    try:
        samemap.install(**{keyword: 1})
        assert getattr(_switch.current_options(), keyword) is True
    finally:
        samemap.install()


def test_import_without_joblib():
    """With SAMEMAP=0 joblib isn't imported before something needs it."""
    source = """
        import os
        os.environ["SAMEMAP"] = "0"
        import sys
        import samemap
        import numpy as np
        heavy = {"joblib", "multiprocessing", "asyncio", "concurrent.futures"}
        print(heavy & {*sys.modules})
        with samemap.disabled():
            samemap.loads(samemap.dumps(np.arange(3)))
        str(samemap.explain(np.arange(3))), samemap.stats()
        samemap.uninstall()
        print(heavy & {*sys.modules}, samemap.installed())
        with samemap.enabled():
            import joblib.pool
            reducers = joblib.pool.get_memmapping_reducers
            print(samemap.installed(), hasattr(reducers, "__wrapped__"))
        print(samemap.installed())
        samemap.install()
        print(samemap.installed())
    """
    assert run_script(source).split("\n")[:5] == [
        "set()",
        "set() False",
        "True True",
        "False",
        "True",
    ]
