"""Large results come back in memory files that the caller maps."""

import dataclasses
import gc
import os
import pickle
import signal
import sys
import time
from pathlib import Path

import joblib
import numpy as np
import pytest
import samemap
from joblib import Parallel, delayed
from joblib.externals.loky import get_reusable_executor
from numpy.lib.stride_tricks import as_strided
from samemap import _core, _exports
from support.scripts import run_script

pytestmark = [pytest.mark.needs_maps, pytest.mark.needs_descriptors]

N = 200_000  # float64: 1.6 MB
LATEST = 3.0  # seconds until an idle worker has closed what was read


def ramp(count=N, dtype=np.float64):
    return np.arange(count).astype(dtype)


LAYOUTS = {
    "C": lambda: ramp().reshape(400, 500),
    "Fortran": lambda: np.asfortranarray(ramp().reshape(400, 500)),
    "transposed": lambda: ramp().reshape(4, 100, 500).transpose(1, 2, 0),
    "negative": lambda: ramp().reshape(400, 500)[::-1, ::-1],
    "part of a row": lambda: ramp().reshape(400, 500)[:, 20:480],
    "unaligned": lambda: np.zeros(8 * N + 8, np.uint8)[3:-5].view(np.float64),
    "byte-swapped": lambda: ramp(dtype=">f8"),
    "complex": lambda: ramp(dtype=complex),
    "dates": lambda: ramp(dtype="M8[s]"),
    "text": lambda: ramp().astype("U10"),
    "records": lambda: ramp(dtype=[("a", ">i4"), ("b", "f8")]),
    "field": lambda: np.ones(N, np.dtype({"names": ["a"], "formats": ["f8"],
                                          "offsets": [3], "itemsize": 12}))["a"],
    "read-only": lambda: np.frombuffer(ramp().tobytes()),
    "windows": lambda: as_strided(ramp(), (N - 9, 10), (8, 8)),
    "no axis": lambda: ramp(1).astype("S2000000").reshape(()),
}  # fmt: skip


def make(name):
    return LAYOUTS[name]()


@pytest.mark.parametrize("name", LAYOUTS)
def test_layout(send, name):
    """A large result has the values, type, dtype, strides and flags that it had."""
    expected = make(name)
    for result in send(make, (name,), (name,)):
        assert type(result) is np.ndarray
        assert result.dtype == expected.dtype
        assert result.strides == expected.strides
        for flag in ("writeable", "aligned", "c_contiguous", "f_contiguous"):
            assert getattr(result.flags, flag) == getattr(expected.flags, flag)
        assert result.tobytes() == expected.tobytes()
        assert is_exported(result)


def is_exported(array):
    """The array lies on a memory file, privately."""
    told = samemap.explain(array)
    return told.get("route") == "descriptor" and told.get("sharing") == "private"


def make_sparse():
    return ramp(4 * N)[::4], np.broadcast_to(ramp(1), (1000, 1000))


def test_sparse(send):
    """Of a view with wide gaps, and of one number a million times, the bytes come."""
    for sparse, broadcast in send(make_sparse, ()):
        np.testing.assert_array_equal(sparse, ramp(4 * N)[::4])
        assert samemap.explain(sparse)["map_length"] == sparse.nbytes
        assert broadcast.strides == (0, 0)
        assert not is_exported(broadcast)


def make_views():
    array = ramp().reshape(400, 500)
    return {"all": array, "views": [array.T, (array[::-1, 5:], array[7])]}


def test_views_share_memory(send):
    """Views of one array share memory on arrival, in lists, tuples and dicts."""
    for result in send(make_views, (), ()):
        array = result["all"]
        transposed, (turned, row) = result["views"]
        array[7, 9] = -1
        assert transposed[9, 7] == row[9] == turned[392, 4] == -1
        assert np.shares_memory(array, turned)


@dataclasses.dataclass
class Fitted:
    weights: np.ndarray
    first: np.ndarray
    masked: np.ma.MaskedArray


def make_fitted():
    weights = ramp()
    return Fitted(weights, weights[:10], np.ma.masked_less(ramp(), 5))


def test_in_objects(send):
    """Arrays in objects come so too, and share memory; subclasses around theirs."""
    for fitted in send(make_fitted, ()):
        np.testing.assert_array_equal(fitted.weights, ramp())
        assert is_exported(fitted.weights)
        assert np.shares_memory(fitted.weights, fitted.first)
        assert type(fitted.masked) is np.ma.MaskedArray
        assert fitted.masked.mask.sum() == 5
        assert is_exported(fitted.masked.data.view(np.ndarray))


class Scratch:
    """Pickled as an array that is used again for the next one."""

    buffer = np.empty(N)

    def __init__(self, value):
        self.value = value

    def __reduce__(self):
        self.buffer[:] = self.value
        return np.array, (self.buffer[:],)


def make_scratch():
    return [Scratch(value) for value in range(3)]


def test_reused_memory(send):
    """What arrives is what was there when each array was pickled."""
    for result in send(make_scratch, ()):
        assert [array[0] for array in result] == [0, 1, 2]


_kept = {}


def give_and_keep():
    return _kept.setdefault("array", np.zeros(N))


def change_kept():
    if "array" in _kept:
        _kept["array"] += 1
    time.sleep(0.1)  # for the other worker


def test_worker_keeps(backend):
    """What a worker writes to an array that it has returned nobody else sees."""
    with Parallel(2, backend, batch_size=1) as pool:
        first = pool(delayed(give_and_keep)() for _ in range(2))
        pool(delayed(change_kept)() for _ in range(4))
        assert not any(array.any() for array in first)


def test_forked_caller(send):
    """A fork of the caller and the caller don't see what the other one writes."""
    (result,) = send(ramp, (N,))
    child = os.fork()
    if child == 0:
        result[:] = -1
        os._exit(0)
    os.waitpid(child, 0)
    np.testing.assert_array_equal(result, ramp())


def test_outlives_pool(backend):
    """A result is there when its worker and the pool are gone, and can be sent on."""
    results = Parallel(2, backend)(delayed(ramp)(N) for _ in range(3))
    get_reusable_executor().shutdown(wait=True)
    for result in results:
        np.testing.assert_array_equal(result, ramp())
        result += 1
    sums = Parallel(2, backend)(delayed(np.sum)(result) for result in results)
    assert sums == [(ramp() + 1).sum()] * 3


def test_sent_on_by_reference(send):
    """A result as an argument takes the pages that were written, no more."""
    (result,) = send(ramp, (10 * N,))
    result[5] = -7
    assert samemap.explain(result)["by_reference"]
    assert samemap.explain(result)["message_nbytes"] < 20_000
    assert send(np.min, (result,), (result,)) == [-7, -7]


def fail():
    error = ValueError("with data")
    error.data = ramp()
    raise error


def test_exception(send):
    """An array that an exception carries comes by a file as well."""
    with pytest.raises(ValueError, match="with data") as caught:
        send(fail, ())
    np.testing.assert_array_equal(caught.value.data, ramp())
    assert is_exported(caught.value.data)


def open_files(pid):
    """The memory files that a process has open or mapped."""
    folder = Path(f"/proc/{pid}/fd")
    files = [os.readlink(fd) for fd in folder.iterdir() if os.path.lexists(fd)]
    maps = Path(f"/proc/{pid}/maps").read_text()
    return sum("memfd:samemap" in file for file in files) + maps.count("memfd:samemap")


def wait_until(condition, seconds=LATEST):
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.02)
    return condition()


def pid_and_array():
    time.sleep(0.05)  # for the other worker
    return os.getpid(), ramp()


def test_nothing_kept(backend):
    """Idle workers have closed all within seconds, and the caller with the arrays."""
    gc.collect()
    before = open_files("self")
    with Parallel(2, backend, batch_size=1) as pool:
        results = pool(delayed(pid_and_array)() for _ in range(6))
        pids = {pid for pid, _ in results}
        assert wait_until(lambda: all(open_files(pid) == 0 for pid in pids))
        assert open_files("self") >= before + len(results)
        del results
        gc.collect()
        assert open_files("self") == before


def thread_of_task():
    return _exports._closer, ramp()


def test_no_thread_beside_tasks(backend):
    """While a task runs its worker has no thread of ours: tasks may fork."""
    with Parallel(2, backend, batch_size=1) as pool:
        found = pool(delayed(thread_of_task)() for _ in range(8))
    assert [thread for thread, _ in found] == [None] * 8


def break_loading():
    return ramp(), Broken()


class Broken:
    def __reduce__(self):
        return int, ("no number",)


def test_error_in_loading(backend):
    """What can't be loaded is acknowledged all the same."""
    with Parallel(2, backend, batch_size=1) as pool:
        pids = {pid for pid, _ in pool(delayed(pid_and_array)() for _ in range(6))}
        with pytest.raises(ValueError, match="no number"):
            pool(delayed(break_loading)() for _ in range(2))
        for pid in pids:
            assert wait_until(
                lambda pid=pid: (
                    not Path(f"/proc/{pid}").exists() or open_files(pid) == 0
                )
            )


ABORTED = """
import gc, os, sys, time
from joblib import Parallel, delayed
import numpy as np, samemap
def task(i):
    if i == 5:
        raise KeyError(i)
    return np.arange(200_000.)
for _ in range(3):
    try:
        Parallel(2, sys.argv[1], batch_size=1)(delayed(task)(i) for i in range(20))
    except KeyError:
        pass
results = Parallel(2, sys.argv[1], return_as="generator")(
    delayed(task)(i) for i in range(4))
next(results)
del results
def count():
    folder = "/proc/self/fd"
    files = [os.path.realpath(f"{folder}/{fd}") for fd in os.listdir(folder)]
    return sum("memfd:samemap" in file for file in files)
end = time.monotonic() + 5
while count() and time.monotonic() < end:
    gc.collect()
    time.sleep(.05)
print(count())
"""


def test_aborted_call():
    """A call that fails, or whose generator is dropped, keeps nothing."""
    assert run_script(ABORTED, "loky").split()[-1] == "0"


def die(how):
    array = ramp()
    if how == "now":
        os.kill(os.getpid(), signal.SIGKILL)
    return array


def test_killed_worker():
    """Workers that are killed leave no file behind."""
    before = set(os.listdir("/dev/shm"))
    for _ in range(2):
        with pytest.raises(Exception, match="terminated"):
            Parallel(2)(delayed(die)(how) for how in ["", "", "now", "", ""])
    get_reusable_executor().shutdown(wait=True)
    left = set(os.listdir("/dev/shm")) - before
    assert not [name for name in left if "samemap" in name]


def limited():
    import resource

    _soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, hard))
    return ramp()


def count_no_room():
    import resource

    _soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    counted = samemap.stats()["no room"]["arrays"]
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    return counted


def test_no_room(backend):
    """Where a file can't be so large the result comes by value, and is counted."""
    with Parallel(2, backend, batch_size=1) as pool:
        for result in pool(delayed(limited)() for _ in range(4)):
            np.testing.assert_array_equal(result, ramp())
            assert not is_exported(result)
        assert max(pool(delayed(count_no_room)() for _ in range(4))) > 0
    get_reusable_executor().shutdown(wait=True)


def not_dumpable():
    import ctypes

    ctypes.CDLL(None).prctl(4, 0, 0, 0, 0)
    return ramp()


def test_not_dumpable(backend):
    """A worker whose files nobody may open sends by value."""
    for result in Parallel(2, backend)(delayed(not_dumpable)() for _ in range(2)):
        np.testing.assert_array_equal(result, ramp())
        assert not is_exported(result)
    get_reusable_executor().shutdown(wait=True)


def test_many_results(backend):
    """More results than a process may have descriptors for come all the same."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    results = []
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (200, hard))
        with Parallel(2, backend) as pool:
            results = pool(delayed(ramp)(N) for _ in range(300))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert all((result == ramp()).all() for result in results)
    assert all(result.flags.writeable for result in results)


def fork_and_count():
    child = os.fork()
    if child == 0:
        os._exit(_core.close_exports())
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), ramp()


def test_forked_child_of_worker(backend):
    """A child of a worker has none of its files."""
    with Parallel(2, backend, batch_size=1) as pool:
        results = pool(delayed(fork_and_count)() for _ in range(6))
    assert [count for count, _ in results] == [0] * 6


@pytest.mark.skipif(
    joblib.__version__.startswith("1.3."), reason="joblib 1.4 hands options on to pools"
)
def test_workers_of_one_task():
    """A worker that ends after its task stays until its result has been read."""
    pool = Parallel(2, "multiprocessing", batch_size=1, maxtasksperchild=1)
    for result in pool(delayed(ramp)(N) for _ in range(20)):
        np.testing.assert_array_equal(result, ramp())


def test_receipts():
    """A file is closed when it is acknowledged, and older ones that never were."""
    from samemap._batches import pool_pickler
    from samemap._envelope import Writer
    from samemap._tables import Options, make_table

    writer = Writer(pool_pickler, make_table(Options(), backward=True))
    messages = [writer.write_results([ramp()]) for _ in range(3)]
    assert _core.close_exports() == 3
    pid, fd, identity = messages[1][1][0]
    assert _core.acknowledge(pid, fd, bytes(identity))
    assert _core.close_exports() == 1
    assert _core.acknowledge(*messages[2][1][0])
    assert _core.close_exports() == 0
    assert _core.acknowledge(*messages[0][1][0]), "long gone: no reason to try again"


def test_failed_message():
    """What was written for a message that fails is closed at once."""
    from samemap._batches import pool_pickler
    from samemap._envelope import Writer
    from samemap._tables import Options, make_table

    writer = Writer(pool_pickler, make_table(Options(), backward=True))
    with pytest.raises((TypeError, AttributeError, pickle.PicklingError)):
        writer.write_results([ramp(), sys._getframe()])
    assert _core.close_exports() == 0


def test_off(backend):
    """`install(memory=False)` leaves results to joblib."""
    with samemap.enabled(memory=False):
        for result in Parallel(2, backend)(delayed(ramp)(N) for _ in range(2)):
            np.testing.assert_array_equal(result, ramp())
            assert not is_exported(result)
