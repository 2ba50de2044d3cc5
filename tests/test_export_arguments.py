"""Large arguments in ordinary memory reach tasks by memory files, as they are."""

import array as array_module
import contextlib
import dataclasses
import gc
import os
import threading
import warnings
from pathlib import Path

import joblib
import numpy as np
import pytest
import samemap
from joblib import Parallel, delayed, parallel_config
from joblib.externals.loky import get_reusable_executor
from numpy.lib.stride_tricks import as_strided
from support.scripts import run_script

pytestmark = [pytest.mark.needs_maps, pytest.mark.needs_descriptors]

# What tasks write to their own arrays is meant to be lost here.
LOSES = pytest.mark.filterwarnings("ignore::samemap.LostWritesWarning")

N = 200_000  # float64: 1.6 MB


def ramp(count=N, dtype=np.float64):
    return np.arange(count).astype(dtype)


# Name: array, and its strides on arrival if they are others.
LAYOUTS = {
    "C": (ramp().reshape(400, 500), None),
    "Fortran": (np.asfortranarray(ramp().reshape(400, 500)), None),
    "transposed": (ramp().reshape(4, 100, 500).transpose(1, 2, 0), None),
    "negative": (ramp().reshape(400, 500)[::-1, ::-1], None),
    "part of a row": (ramp().reshape(400, 500)[:, 20:480], None),
    "unaligned": (np.zeros(8 * N + 8, np.uint8)[3:-5].view(np.float64), None),
    "byte-swapped": (ramp(dtype=">f8"), None),
    "dates": (ramp(dtype="M8[s]"), None),
    "text": (ramp().astype("U10"), None),
    "records": (ramp(dtype=[("a", ">i4"), ("b", "f8")]), None),
    "read-only": (np.frombuffer(ramp().tobytes()), None),
    "windows": (as_strided(ramp(), (N - 9, 10), (8, 8)), None),
    "one number": (np.broadcast_to(1.5, (1000, 1000)), (0, 0)),
    "broadcast": (np.broadcast_to(ramp(), (3, N)), None),
    "wide gaps": (ramp(4 * N).reshape(400, 2000)[:, ::4], (4000, 8)),
    "wide gaps, turned": (ramp(4 * N).reshape(400, 2000)[::-1, ::-4].T, (-8, -4000)),
    "wide gaps, broadcast": (
        np.broadcast_to(ramp(4 * N)[::4, None], (N, 5)), (8, 0)
    ),
}  # fmt: skip


def look(array):
    return (type(array), array.dtype, array.shape, array.strides, array.flags.aligned,
            array.flags.writeable, array.tobytes())  # fmt: skip


@pytest.mark.parametrize("name", LAYOUTS)
def test_layout(send, name):
    """An argument has the type, values, dtype, strides and flags that it was sent with.

    Of wide gaps only the bytes are left out that nobody sees.
    """
    array, strides = LAYOUTS[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of np.broadcast_to's flag
        expected = list(look(array))
    expected[3] = strides or expected[3]
    assert send(look, (array,), (array,)) == [tuple(expected)] * 2


OWNERS = {
    "bytes": lambda: np.frombuffer(ramp().tobytes()),
    "bytearray": lambda: np.frombuffer(bytearray(ramp().tobytes())),
    "array.array": lambda: np.frombuffer(array_module.array("d", ramp())),
    "list in an object": lambda: ramp().tolist() and ramp(),
}


@pytest.mark.parametrize("name", OWNERS)
def test_owners(send, name):
    """Whoever owns the memory: it arrives, as writeable as it was."""
    array = OWNERS[name]()
    for found in send(look, (array,), (array,)):
        assert found == look(array)


def sum_and_files(array):
    """As a task: bytes of the memory files that the caller has open, too."""
    total = 0
    for fd in Path(f"/proc/{os.getppid()}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            if "memfd:samemap" in os.readlink(fd):
                total += 512 * os.stat(fd).st_blocks
    return array.sum(), total


def test_memory_is_exported_once(backend):
    """Six overlapping slices of one array hold its memory once."""
    array = ramp(10 * N)
    slices = [array[i * N : (i + 5) * N] for i in range(6)]
    found = Parallel(2, backend)(delayed(sum_and_files)(part) for part in slices)
    assert [total for total, _ in found] == [part.sum() for part in slices]
    assert 0 < max(files for _, files in found) < 1.5 * array.nbytes


def alias(whole, part, turned, held):
    part[0] = -1
    turned[0] = -2
    return whole[5], whole[-1], held["x"][0] is whole, np.shares_memory(whole, part)


@LOSES
def test_views_share_memory_in_a_task(send):
    """Views of one array alias in each task, small ones too, and nowhere else."""
    array = ramp()
    args = (array, array[5:10], array[::-1], {"x": [array]})
    assert send(alias, *[args] * 6, batch_size=3) == [(-1, -2, True, True)] * 6
    np.testing.assert_array_equal(array, ramp())


@dataclasses.dataclass
class Holder:
    array: np.ndarray


def is_writeable(held):
    return held.array.flags.writeable, float(held.array.sum())


def test_deep_in_an_object(send):
    """In an object, which tasks may share, it is read-only as joblib has it."""
    holder = Holder(ramp())
    assert send(is_writeable, *[(holder,)] * 4) == [(False, ramp().sum())] * 4


class Part:
    """An object that shows a part of an array that its method gets as well."""

    def __init__(self, part):
        self.part = part

    def write(self, array):
        with contextlib.suppress(ValueError):
            array[5] = -1
        return float(self.part[0]), float(array[5])


def test_object_that_shows_an_argument(send):
    """Where an object shows the memory of an argument, writes are refused, as a dump's.

    They would be seen in the one and not in the other.
    """
    array = ramp()
    calls = [delayed(Part(array[5:]).write)(array) for _ in range(4)]
    assert Parallel(2, batch_size=2)(calls) == [(5, 5)] * 4


@LOSES
@pytest.mark.parametrize("batch_size", [1, 4])
def test_wide_gaps_in_several_tasks(backend, batch_size):
    """Views with wide gaps that are each in a task of its own are that task's own."""
    array = ramp(8 * N)
    views = [array[i::8] for i in range(4)]
    found = Parallel(2, backend, batch_size=batch_size, pre_dispatch="all")(
        delayed(add_and_return)(view) for view in views
    )
    for result, view in zip(found, views, strict=True):
        np.testing.assert_array_equal(result, view + 1)


def test_aborted_call_holds_nothing(backend):
    """The error of a call that failed may be kept, and what its tasks held is gone."""
    before = descriptors()
    errors = []
    for number in range(3):
        with pytest.raises(KeyError) as caught:
            Parallel(2, backend, pre_dispatch="all", batch_size=1)(
                delayed(fail)(np.full(N, float(number + i))) for i in range(8)
            )
        errors.append(caught.value)
    if backend == "loky":
        get_reusable_executor().shutdown(wait=True)
    gc.collect()
    assert descriptors() == before


def first_and_sum(array):
    return float(array[0]), float(array.sum())


CHANGES = {
    "in place": lambda array: array.__iadd__(1),
    "one number": lambda array: array.__setitem__(-1, array[-1] + 1),
    "by a ufunc": lambda array: np.add(array, 1, out=array),
    "by read": lambda array: _read_into(array),
    "by a thread": lambda array: _in_thread(np.add, array, 1, array),
    "by a view": lambda array: np.copyto(array[::3].T, -1),
}


def _read_into(array):
    with open("/dev/urandom", "rb") as file:
        file.readinto(array)


def _in_thread(function, *args):
    thread = threading.Thread(target=function, args=args)
    thread.start()
    thread.join()


def edges(array):
    return array.tobytes()


@pytest.mark.parametrize("view", ["all", "wide gaps"])
@pytest.mark.parametrize("name", CHANGES)
def test_never_stale(backend, name, view):
    """What arrives is what is there when it is pickled, however it was changed."""
    array = ramp(2 * N)
    sent = array if view == "all" else array[: 9 * N // 5 : 3]
    with Parallel(2, backend) as pool:
        for times in (1, 2, 3, 1):
            for _ in range(times):
                # The second time it is compared, and watched from then on.
                expected = array.tobytes() if view == "all" else sent.tobytes()
                found = pool(delayed(edges)(sent) for _ in range(2))
                assert found == [expected] * 2
            CHANGES[name](array)


FORBIDDEN = """
import sys
import numpy as np, samemap
from joblib import Parallel, delayed
from support import seccomp
if __name__ == "__main__":
    _, backend, call, action = sys.argv
    seccomp.forbid(call, getattr(seccomp, action))
    array = np.arange(200_000.0)
    with Parallel(2, backend) as pool:
        for _ in range(3):
            for _ in range(3):
                expected = array.sum()
                assert pool([delayed(np.sum)(array)] * 2) == [expected] * 2
            array += 1
    print(samemap.stats()["exported"]["arrays"], samemap.stats()["memory"]["arrays"])
"""


@pytest.mark.parametrize("action", ["REFUSE", "KILL"])
@pytest.mark.parametrize("call", ["userfaultfd", "madvise"])
def test_forbidden_calls(backend, call, action):
    """Where a sandbox refuses a call, or kills for it, the way is slower, and right."""
    if (call, action) == ("madvise", "KILL"):
        pytest.skip("every allocator makes this call")
    exported, pickled = run_script(FORBIDDEN, backend, call, action).split()
    assert (exported != "0", pickled) == (True, "0")


def test_another_array_at_the_address(backend):
    """Memory that was freed and given to the next array is told from the first."""
    with Parallel(2, backend) as pool:
        for number in range(8):
            array = np.full(N, float(number))
            found = pool(delayed(first_and_sum)(array) for _ in range(2))
            assert found == [(number, number * N)] * 2
            del array


def test_unchanged_memory_is_used_again(backend):
    """Array and file are the same from batch to batch, while nobody writes."""
    array = ramp()
    with Parallel(2, backend, batch_size=1) as pool:
        names = set()
        for _ in range(4):
            names |= set(pool(delayed(inode_of)(array) for _ in range(4)))
        assert len(names) == 1
        array[3] = -1
        assert len(names | set(pool(delayed(inode_of)(array) for _ in range(4)))) == 2


def inode_of(array):
    address = array.__array_interface__["data"][0]
    for line in Path("/proc/self/maps").read_text().splitlines():
        span, _, _, _, inode, *_ = line.split()
        low, high = (int(part, 16) for part in span.split("-"))
        if low <= address < high:
            return inode
    raise AssertionError("not mapped")


def add_one(array):
    array += 1


@pytest.mark.parametrize("batch_size", [1, 4])
def test_lost_writes_are_told(backend, batch_size):
    """Tasks that write to their own pages are counted, and warned of once a call."""
    array = ramp()
    before = samemap.stats()["writes lost"]["arrays"]
    with pytest.warns(samemap.LostWritesWarning, match=r"4 of .*samemap.empty") as told:
        Parallel(2, backend, batch_size=batch_size)(
            delayed(add_one)(array) for _ in range(4)
        )
    # From CPython 3.12 on there may be those of fork as well.
    [lost] = [w for w in told if w.category is samemap.LostWritesWarning]
    assert lost.filename == __file__
    assert samemap.stats()["writes lost"]["arrays"] == before + 4
    np.testing.assert_array_equal(array, ramp())
    with warnings.catch_warnings():
        warnings.simplefilter("error", samemap.LostWritesWarning)
        Parallel(2, backend)(delayed(np.sum)(array) for _ in range(4))
        shared = samemap.share(array)
        Parallel(2, backend)([delayed(add_one)(shared)])
    assert shared[0] == 1


MODES = [("r", np.memmap, False), ("c", np.memmap, True), ("r+", np.memmap, True)]


@pytest.mark.parametrize(("mode", "cls", "writeable"), MODES)
def test_named_mode_is_joblibs_road(backend, mode, cls, writeable):
    """A mode that is named gives joblib's memmap, before and after the default."""

    def find(**options):
        [found] = Parallel(2, backend, **options)([delayed(look)(ramp())])
        return found[0], found[5]

    for _ in range(2):
        assert find() == (np.ndarray, True)
        assert find(mmap_mode=mode) == (cls, writeable)
        with parallel_config(mmap_mode=mode):
            assert find() == (cls, writeable)


def test_without_memory(backend):
    """install(memory=False) leaves ordinary memory to joblib."""
    with samemap.enabled(memory=False):
        [found] = Parallel(2, backend)([delayed(look)(ramp())])
    assert found[0] is np.memmap
    assert not found[5]


def descriptors():
    gc.collect()
    names = []
    for fd in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            names.append(os.readlink(fd))
    return sum("memfd:samemap" in name for name in names)


def fail(array):
    raise KeyError("as wanted")


def test_nothing_is_kept(backend):
    """After a call, one that fails and a dropped generator there is no file of ours."""
    array = ramp()
    before = descriptors()
    Parallel(2, backend)(delayed(np.sum)(array) for _ in range(4))
    assert descriptors() == before
    with pytest.raises(KeyError):
        Parallel(2, backend)(delayed(fail)(array) for _ in range(4))
    # The executor drops what it has not sent in a thread of its own.
    get_reusable_executor().shutdown(wait=True)
    assert descriptors() == before


def test_idle_pool_keeps_one_file(backend):
    """In a `with` block the file waits for the next call; it ends with the array."""
    array = ramp()
    before = descriptors()
    with Parallel(2, backend) as pool:
        pool(delayed(np.sum)(array) for _ in range(4))
        assert descriptors() <= before + 1
        del array
        assert descriptors() == before


def test_generator_of_arrays(backend):
    """Files end with their tasks: of many arrays not many are there at once."""
    most = []

    def arrays():
        for number in range(60):
            most.append(descriptors())
            yield delayed(first_and_sum)(np.full(N, float(number)))

    found = Parallel(2, backend, batch_size=1)(arrays())
    assert found == [(number, number * N) for number in range(60)]
    assert max(most) < 30


FEW_DESCRIPTORS = """
import resource, sys
import numpy as np, samemap
from joblib import Parallel, delayed
resource.setrlimit(resource.RLIMIT_NOFILE, (128, 128))
arrays = [np.full(200_000, float(i)) for i in range(300)]
parallel = Parallel(2, sys.argv[1], pre_dispatch="all", batch_size=1)
assert parallel(delayed(np.sum)(a) for a in arrays) == [a.sum() for a in arrays]
print(samemap.stats()["no memory file"]["arrays"] > 0)
"""


def test_few_descriptors(backend):
    """More arrays at once than there are descriptors: some go joblib's way."""
    assert run_script(FEW_DESCRIPTORS, backend).split() == ["True"]


LITTLE_ROOM = """
import resource, sys
import numpy as np, samemap
from joblib import Parallel, delayed

def limit():
    fields = dict(line.split(":") for line in open("/proc/self/status"))
    data = 1024 * int(fields["VmData"].split()[0]) + (8 << 20)
    resource.setrlimit(resource.RLIMIT_DATA, (data, data))

def look(array):
    return type(array).__name__, array.flags.writeable, float(array.sum())

if __name__ == "__main__":
    array = np.ones(2_000_000)
    {limit}
    found = Parallel(2, sys.argv[1])(delayed(look)(array) for _ in range(2))
    print(found[0], found[0] == found[1])
"""


def test_file_size_limit(backend):
    """Where no file may be so large there is joblib's error, in place of ours."""
    limit = "resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))"
    with pytest.raises(AssertionError, match=r"Errno 27|File too large"):
        run_script(LITTLE_ROOM.format(limit=limit), backend)


def test_data_limit(backend):
    """A worker that may have no more writable memory gets a read-only array."""
    if backend == "multiprocessing" or joblib.__version__.startswith("1.3."):
        pytest.skip("no initializer of workers")
    limited = LITTLE_ROOM.format(limit="").replace(
        "Parallel(2, sys.argv[1])", 'Parallel(2, "loky", initializer=limit)'
    )
    found = run_script(limited, backend)
    assert found.strip() == "('ndarray', False, 2000000.0) True"


def test_no_room_for_all_copies(backend):
    """Where not all workers could write to their own copy it arrives read-only."""
    source = LITTLE_ROOM.format(
        limit="from samemap import _joblib\n"
        "    _joblib._count_loky_workers = joblib.cpu_count = lambda: 1 << 30"
    ).replace("import resource, sys", "import joblib, resource, sys")
    assert run_script(source, backend).strip() == "('ndarray', False, 2000000.0) True"


@LOSES
def test_results_are_their_own(send):
    """An argument that a task returns is the caller's own, whatever others do."""
    array = ramp()
    first, second = send(add_and_return, (array,), (array,))
    np.testing.assert_array_equal(first, ramp() + 1)
    first[:] = 0
    np.testing.assert_array_equal(second, ramp() + 1)
    np.testing.assert_array_equal(array, ramp())


def add_and_return(array):
    array += 1
    return array


def run_nested(array):
    return Parallel(2)(delayed(first_and_sum)(array) for _ in range(3))


def test_nested_pools():
    """A task sends its argument on to tasks of its own."""
    found = Parallel(2)(delayed(run_nested)(ramp()) for _ in range(2))
    assert found == [[first_and_sum(ramp())] * 3] * 2


def test_fork_while_files_are_open(backend):
    """A child of the caller has none of its files, and its own calls work."""
    array = ramp()
    with Parallel(2, "loky") as pool:
        pool(delayed(np.sum)(array) for _ in range(2))
        assert descriptors() >= 1
        child = os.fork()
        if child == 0:
            os._exit(descriptors())
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert pool(delayed(np.sum)(array) for _ in range(2)) == [array.sum()] * 2
