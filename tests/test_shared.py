"""Memory made to be shared: samemap.empty, zeros and share."""

import contextlib
import gc
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import samemap
from joblib import Parallel, delayed
from samemap import _core
from support import seccomp
from support.scripts import mounted, run_script
from support.waves import check_that_workers_meet

pytestmark = [pytest.mark.needs_maps, pytest.mark.needs_descriptors]

# Of new arrays: type, order, and a view of them that has 24 elements.
LAYOUTS = {
    "C": ("f8", "C", lambda a: a),
    "Fortran": (">i4", "F", lambda a: a),
    "transposed": ("c16", "C", lambda a: a.T),
    "backwards": ("M8[s]", "C", lambda a: a[::-1, ::-1]),
    "field": ([("a", "u1"), ("b", "f4")], "C", lambda a: a["b"]),
    "flat": ("f2", "F", lambda a: a.T.reshape(-1)),
}


def made_maps(pid="self"):
    """Return the lines of a process's table that are about such memory."""
    table = Path(f"/proc/{pid}/maps").read_text().splitlines()
    return [line for line in table if "/memfd:samemap" in line]


def made_descriptors():
    """Return the numbers of this process's descriptors that are of such memory."""
    found = []
    for path in Path("/proc/self/fd").iterdir():
        # That of the folder itself is gone.
        with contextlib.suppress(FileNotFoundError):
            if "memfd:samemap" in os.readlink(path):
                found.append(path.name)
    return sorted(found)


def fill(array, i):
    array.reshape(-1)[i : i + 1] = np.array(i + 1).astype(array.dtype)


def fill_row(array, i):
    array[i] = np.array(i + 1).astype(array.dtype)


@pytest.mark.parametrize("name", LAYOUTS)
def test_filled_by_tasks(send, name):
    """Every task writes its part of one array: the caller has all of them."""
    dtype, order, view_of = LAYOUTS[name]
    view = view_of(samemap.empty((4, 6), dtype, order))
    view[...] = np.zeros((), view.dtype)
    send(fill_row, *[(view, i) for i in range(len(view))])
    expected = np.arange(1, len(view) + 1).astype(view.dtype)
    np.testing.assert_array_equal(view.T, np.broadcast_to(expected, view.T.shape))


@pytest.mark.parametrize("batch_size", [1, 5, "auto"])
def test_batches(send, batch_size):
    """However tasks are batched: what is shared by request is no task's own."""
    output = samemap.zeros(40, int)
    send(fill, *[(output, i) for i in range(40)], batch_size=batch_size)
    np.testing.assert_array_equal(output, np.arange(1, 41))


def test_workers_see_each_other(send):
    """Two workers write at the same time, and each sees what the other wrote."""
    check_that_workers_meet(send, samemap.zeros(60, int))


def write_one_see_other(first, second):
    second[...] = 7
    return np.shares_memory(first, second), first.tolist(), type(first)


def test_views_alias(send):
    """Views of one array share memory in a task too, as plain arrays."""
    array = samemap.zeros((2, 3))
    (told,) = send(write_one_see_other, (array.T, array[1:, ::-1]))
    assert told == (True, [[0, 7], [0, 7], [0, 7]], np.ndarray)
    np.testing.assert_array_equal(array, [[0] * 3, [7] * 3])


def try_to_write(array):
    array[0] = 1


def test_read_only_view(send):
    """A view that its user made read-only is that in a task."""
    array = samemap.zeros(3)
    array.flags.writeable = False
    with pytest.raises(ValueError, match="read-only"):
        send(try_to_write, (array,))


class Holder:
    def __init__(self, array):
        self.array = array

    def fill(self, i):
        self.array[i] = i + 1


def test_deep_in_objects(send, backend):
    """In an object that all tasks have, out of a large batch: shared as well."""
    holder = Holder(samemap.zeros(300_000))
    Parallel(2, backend=backend, batch_size=4)(
        delayed(holder.fill)(i) for i in range(20)
    )
    np.testing.assert_array_equal(holder.array[:21], [*range(1, 21), 0])


def write_and_return(array):
    array[0] = 1
    return array, array[::-1]


def test_result_is_a_copy(send):
    """What a task returns is the caller's own, and isn't the shared memory."""
    array = samemap.zeros(3)
    ((result, reverse),) = send(write_and_return, (array,))
    assert result[0] == 1
    assert not np.shares_memory(result, array)
    array[:] = 5
    result[1] = 8
    np.testing.assert_array_equal(result[[0, 2]], [1, 0])
    np.testing.assert_array_equal(array, [5, 5, 5])
    assert reverse[2] == 1


def pass_on(array, backend):
    array[0] = 1
    Parallel(2, backend=backend)(delayed(fill)(array, i) for i in range(1, 6))
    return array.tolist()


@pytest.mark.parametrize("inner", ["loky", "multiprocessing"])
def test_nested_pools(inner):
    """A worker passes it on: the workers of its own pool write to the same memory."""
    array = samemap.zeros(6)
    (seen,) = Parallel(2, backend="loky")([delayed(pass_on)(array, inner)])
    assert seen == array.tolist() == [1, 2, 3, 4, 5, 6]


def test_sent_on_without_its_maker(send):
    """Who got it may pass it on when the array that it came from is gone."""
    first = samemap.zeros(6)
    second = samemap.loads(samemap.dumps(first))
    second[0] = 1
    assert first[0] == 1
    del first
    gc.collect()
    send(fill, *[(second, i) for i in range(1, 6)])
    np.testing.assert_array_equal(second, [1, 2, 3, 4, 5, 6])


ORPHAN = """
    import os, samemap
    from joblib import Parallel, delayed
    array = samemap.zeros(6)
    def fill(array, i):
        array[i] = i
    waiting, leaving = os.pipe()
    if os.fork():
        os._exit(0)
    os.close(leaving)
    os.read(waiting, 1)  # until the parent is gone
    Parallel(2, backend="multiprocessing")(delayed(fill)(array, i) for i in range(6))
    print(array.tolist(), flush=True)
"""


def test_forked_child_of_its_maker():
    """A forked child has the memory too, and shares it when its parent is gone."""
    assert run_script(ORPHAN) == "[0.0, 1.0, 2.0, 3.0, 4.0, 5.0]\n"


def made_maps_of_worker(_):
    gc.collect()
    return made_maps(), made_descriptors()


def test_freed(backend):
    """With the last array go maps and descriptors, here and in a pool that lives."""
    gc.collect()
    before = made_maps(), made_descriptors(), _core.known()
    with Parallel(2, backend=backend, batch_size=1) as parallel:
        parallel(delayed(made_maps_of_worker)(None) for _ in range(4))
        for _ in range(3):
            array = samemap.zeros(500_000)
            parallel(delayed(fill)(array, i) for i in range(8))
            assert len(made_maps()) == len(before[0]) + 1
            del array
            # That frees the last task's arguments in each worker.
            parallel(delayed(time.sleep)(0.05) for _ in range(4))
            gc.collect()
            found = parallel(delayed(made_maps_of_worker)(None) for _ in range(4))
            assert found == [before[:2]] * 4
            assert (made_maps(), made_descriptors(), _core.known()) == before
    gc.collect()
    assert made_descriptors() == before[1]


def count_all():
    gc.collect()
    maps = len(Path("/proc/self/maps").read_text().splitlines())
    return len(os.listdir("/proc/self/fd")), maps, _core.known(), len(gc.get_objects())


def test_nothing_is_left():
    """After hundreds of arrays, sent, received or refused, all counts are the same."""
    source = np.arange(300_000)
    counts = []
    for _ in range(2):
        for i in range(200):
            samemap.empty(i)
            shared = samemap.share(source)
            samemap.loads(samemap.dumps([shared, shared[::-1]]))
            for fails in (object, [("a", object)]):
                with pytest.raises(TypeError):
                    samemap.zeros(3, fails)
            with pytest.raises(MemoryError):
                samemap.zeros(1 << 50, "u1")
            with pytest.raises(ValueError, match="exceed"):
                _core.shared_memory(3, b"four")
            with pytest.raises(TypeError):
                _core.shared_memory(3, "text")
        del shared
        counts.append(count_all())
    assert counts[0][:3] == counts[1][:3]
    assert abs(counts[0][3] - counts[1][3]) < 100


def test_view_keeps_memory():
    """A small view keeps what it lies in, and nobody can close it underneath."""
    view = samemap.share(np.arange(10.0))[3:5]
    gc.collect()
    np.testing.assert_array_equal(view, [3, 4])
    base = view.base
    while not isinstance(base, memoryview):
        base = base.base
    with pytest.raises(BufferError):
        base.obj.close()


def large_files():
    found = [path for path in Path("/dev/shm").rglob("*") if path.is_file()]
    large = set()
    for path in found:
        # Of other programs, some may be gone meanwhile.
        with contextlib.suppress(FileNotFoundError):
            if path.stat().st_size >= 8_000_000:
                large.add(path)
    return large


KILLED = """
    import os, psutil, signal, sys, samemap
    from joblib import Parallel, delayed
    output = samemap.zeros(1_000_000)
    def fill(array, i):
        array[i] = 1
        if i == 3 and sys.argv[2] == "worker":
            os.kill(os.getpid(), signal.SIGKILL)
    try:
        Parallel(2, backend=sys.argv[1])(delayed(fill)(output, i) for i in range(8))
    finally:
        # First who would clean up after it, and hold the test's pipes meanwhile.
        for child in psutil.Process().children(recursive=True):
            child.kill()
        os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize(
    ("pool", "who"),
    [("loky", "worker"), ("loky", "caller"), ("multiprocessing", "caller")],
)
def test_killed(pool, who):
    """Whoever is killed, no file of the array's size is left."""
    before = large_files()
    run_script(KILLED, pool, who, status=-signal.SIGKILL)
    assert large_files() <= before


FORBIDDEN = """
    import sys
    from support import seccomp
    seccomp.forbid("memfd_create", int(sys.argv[2]))
    import numpy as np, samemap
    from joblib import Parallel, delayed
    def fill(array, i):
        array[i] = i
    output = samemap.zeros(1_000_000)
    assert samemap.explain(output)["unlinked"]
    Parallel(2, backend=sys.argv[1])(delayed(fill)(output, i) for i in range(8))
    np.testing.assert_array_equal(output[:9], [*range(8), 0])
"""


@pytest.mark.parametrize("action", [seccomp.KILL, seccomp.REFUSE], ids=["kill", "no"])
def test_memfd_forbidden(backend, action):
    """Where memfd is forbidden, a file without a name in /dev/shm does the same."""
    seccomp.forbidding("memfd_create", action)  # skips
    run_script(FORBIDDEN, backend, action)


SMALL_SHM = """
    from support import seccomp
    seccomp.forbid("memfd_create", seccomp.REFUSE)
    import samemap
    samemap.zeros(1 << 20, "u1")[:] = 1
    kept = samemap.zeros(3 << 20, "u1")
    try:
        samemap.zeros(3 << 20, "u1")[:] = 1
    except MemoryError as error:
        print(error)
    kept[:] = 1
"""


def test_small_file_system():
    """On a /dev/shm that is too small: an error, where a write would be SIGBUS."""
    seccomp.forbidding("memfd_create", seccomp.REFUSE)  # skips
    prefix = mounted("mount -t tmpfs -o size=4M none /dev/shm")
    assert "3145728 bytes" in run_script(SMALL_SHM, prefix=prefix)


NO_ROOM = """
    import resource, samemap, numpy as np
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
    samemap.zeros(1 << 20, "u1")
    for make in (samemap.empty, lambda n: samemap.share(np.zeros(n))):
        try:
            make(1 << 20)
        except MemoryError as error:
            print(error)
"""


def test_no_room():
    """Too little room is a MemoryError that tells how much, before anything is lost."""
    assert run_script(NO_ROOM).count("8388608 bytes") == 2


def test_more_than_there_is():
    """An array that can't fit into memory is refused, not found out by a signal."""
    with pytest.raises(MemoryError, match="are left"):
        samemap.empty(1 << 50, "u1")


@pytest.mark.parametrize("dtype", [object, [("a", "f8"), ("b", object)], "O"])
def test_objects(dtype):
    """Objects are refused: their addresses mean nothing to others."""
    for make in (samemap.empty, samemap.zeros):
        with pytest.raises(TypeError, match="references to Python objects"):
            make(3, dtype)
    with pytest.raises(TypeError, match="references to Python objects"):
        samemap.share(np.empty(3, dtype))


SHAPES = [0, 5, (), (3,), [2, 3], np.int64(4), np.array([2, 2]), (3, 0, 2), (2, 3, 4)]


@pytest.mark.parametrize("make", ["empty", "zeros"])
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("shape", SHAPES, ids=repr)
def test_signature(make, shape, order):
    """What NumPy's function of that name makes, but for where its memory is."""
    for dtype in (float, "S", "S7", ">u2", "(2,3)f4", "m8[ms]", "U3"):
        found = getattr(samemap, make)(shape, dtype, order)
        expected = getattr(np, make)(shape, dtype, order)
        assert (found.shape, found.dtype) == (expected.shape, expected.dtype)
        assert type(found) is np.ndarray
        assert found.flags.writeable
        assert found.flags.aligned
        assert found.flags.f_contiguous == expected.flags.f_contiguous
        assert found.flags.c_contiguous == expected.flags.c_contiguous
        np.testing.assert_array_equal(found, np.zeros_like(expected))


@pytest.mark.parametrize(
    "shape", [-1, (3, -2), (2**40, 2**40), 2.5, (1, "2")], ids=repr
)
def test_wrong_shapes(shape):
    """NumPy's errors for what is no shape."""
    with pytest.raises((ValueError, TypeError)) as told:
        np.empty(shape)
    with pytest.raises(told.type):
        samemap.empty(shape)


SOURCES = {
    "C": lambda: np.arange(24.0).reshape(2, 3, 4),
    "Fortran": lambda: np.asfortranarray(np.arange(24).reshape(4, 6)),
    "axes": lambda: np.arange(24).reshape(2, 3, 4).transpose(1, 2, 0),
    "gaps": lambda: np.arange(48.0).reshape(6, 8)[::2, 1::3],
    "backwards": lambda: np.arange(24).reshape(4, 6)[::-1].T,
    "large": lambda: np.arange(3_000_001),
    "broadcast": lambda: np.broadcast_to(np.arange(3), (4, 3)),
    "scalar": lambda: np.array(7.0),
    "none": lambda: np.empty((0, 3)),
    "list": lambda: [[1, 2], [3, 4]],
    "records": lambda: np.array([(1, 2.5)], [("a", "u1"), ("b", ">f8")]),
    "dates": lambda: np.arange(5).astype("M8[D]"),
    "recarray": lambda: np.rec.array([(1, 2.5)], [("a", "u1"), ("b", "f8")]),
}


@pytest.mark.parametrize("name", SOURCES)
def test_share(send, name):
    """A copy in value, type and order of axes; the source stays out of it."""
    source = SOURCES[name]()
    kept = np.array(source)
    shared = samemap.share(source)
    expected = np.copy(source, order="K")
    assert type(shared) is np.ndarray
    assert (shared.dtype, shared.shape) == (expected.dtype, expected.shape)
    assert shared.flags.c_contiguous == expected.flags.c_contiguous
    assert shared.flags.f_contiguous == expected.flags.f_contiguous
    np.testing.assert_array_equal(shared, expected)
    assert samemap.explain(shared)["writes"] == "shared"
    if shared.size:
        send(set_to_zero, (shared,))
        np.testing.assert_array_equal(shared, np.zeros_like(shared))
    np.testing.assert_array_equal(source, kept)


def set_to_zero(array):
    array[...] = np.zeros((), array.dtype)


def test_explained():
    """It is told that such memory is shared, and by which way it is reached."""
    told = samemap.explain(samemap.zeros((4, 6)).T)
    assert (told["by_reference"], told["writes"]) == (True, "shared")
    assert (told["route"], told["sharing"]) == ("descriptor", "shared")
    assert "everybody who has this memory" in str(told)


def test_not_to_be_reached():
    """Where no worker could reach it: a read-only copy, as writes would be lost."""
    array = samemap.share(np.arange(3))
    _core.set_map_table("none")
    try:
        unreached = samemap.zeros(3)
        assert samemap.explain(unreached)["writes"] == "none"
        arrived = samemap.loads(samemap.dumps(unreached))
    finally:
        _core.set_map_table("auto")
    assert not arrived.flags.writeable
    assert samemap.explain(array)["writes"] == "shared"
