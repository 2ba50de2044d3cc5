"""Numbers are used again: addresses, descriptors, inodes. None is trusted."""

import ctypes
import fcntl
import gc
import mmap
import os

import numpy as np
import pytest
import samemap
from joblib import Parallel, delayed
from samemap import _core
from support import machine
from support.foreign import libc, map_at
from support.scripts import mounted, run_script

PAGE = mmap.PAGESIZE
PROT_WRITE = mmap.PROT_READ | mmap.PROT_WRITE

libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]


class Owner:
    """An object of a library that hands out several pieces of memory."""

    def array(self, address, nbytes, readonly=False):
        self.__array_interface__ = {
            "data": (address, readonly),
            "shape": (nbytes,),
            "typestr": "|u1",
            "version": 3,
        }
        array = np.asarray(self)
        del self.__array_interface__
        return array


@pytest.fixture(
    params=[
        pytest.param("ioctl", marks=pytest.mark.needs_maps),
        pytest.param("text", marks=pytest.mark.needs_maps),
    ]
)
def source(request):
    """Both ways to ask the kernel."""
    _core.set_map_table(request.param)
    yield request.param
    _core.set_map_table("auto")


@pytest.fixture
def make_file(tmp_path):
    def make_file(name, value, nbytes=4 * PAGE):
        path = tmp_path / name
        path.write_bytes(bytes([value]) * nbytes)
        return path

    return make_file


def test_address_used_again(source, make_file):
    """The owner unmaps one file and maps another at the same address."""
    owner, length = Owner(), 4 * PAGE
    address = map_at(make_file("a", 1), length)
    samemap.dumps(owner.array(address, length))
    libc.munmap(address, length)
    assert map_at(make_file("b", 2), length, address=address) == address
    array = owner.array(address, length)
    assert samemap.explain(array)["path"].endswith("b")
    assert samemap.loads(samemap.dumps(array))[0] == 2


def test_owner_of_two_maps(source, make_file):
    """Each map is one, however often views of both take turns."""
    owner, length = Owner(), 4 * PAGE
    one, two = (
        owner.array(map_at(make_file(name, value), length), length)
        for name, value in (("a", 1), ("b", 2))
    )
    alone = len(samemap.dumps([one[i:] for i in range(100)]))
    pairs = [(one[i:], two[i:]) for i in range(100)]
    message = samemap.dumps(pairs)
    assert len(message) < 3 * alone
    for first, second in samemap.loads(message):
        assert (first[0], second[0]) == (1, 2)
        assert np.shares_memory(first, one)
        assert np.shares_memory(second, two)


@pytest.mark.parametrize("which", range(3))
def test_one_of_several_maps_changes(source, make_file, which):
    """What an owner maps anew is another map; its others stay what they are."""
    owner, length = Owner(), PAGE
    addresses = [map_at(make_file(name, ord(name)), length) for name in "abc"]
    arrays = [owner.array(address, length) for address in addresses]
    # While the copies live, nobody else takes the place of a map that was lost.
    copies = samemap.loads(samemap.dumps(arrays))
    before = [token(array) for array in arrays]
    gc.collect()  # of other tests
    known = _core.known()
    map_at(make_file("d", 4), length, address=addresses[which])
    after = [token(array) for array in arrays]
    assert [a == b for a, b in zip(after, before, strict=True)] == [
        i != which for i in range(3)
    ]
    assert [token(array) for array in arrays] == after
    for i, array in enumerate(arrays):
        copy = samemap.loads(samemap.dumps(array))
        assert np.shares_memory(copy, array)
        assert copy[0] == (4 if i == which else ord("abc"[i]))
    assert _core.known() == known
    del owner, arrays, copies, array, copy
    assert _core.known() == known - 1


def token(array):
    return _core.Reducer().reduce(array)[1][0].__reduce__()[1][0]


def test_neighbours(source, make_file):
    """Two files mapped one behind the other by one owner are two maps."""
    address = map_at(make_file("a", 1), 4 * PAGE)
    map_at(make_file("b", 2), 2 * PAGE, address=address + 2 * PAGE)
    owner = Owner()
    parts = [owner.array(address + i * 2 * PAGE, 2 * PAGE) for i in (0, 1, 0, 1)]
    copies = samemap.loads(samemap.dumps(parts))
    assert [copy[0] for copy in copies] == [1, 2, 1, 2]
    for copy, part in zip(copies, parts, strict=True):
        assert np.shares_memory(copy, part)


class Explained:
    """Loading it looks at another array."""

    array = None

    def __reduce__(self):
        return explained, ()


def explained():
    return samemap.explain(Explained.array)["path"]


@pytest.mark.needs_maps
def test_other_map_met_while_loading(make_file):
    """What a message has found is not exchanged for the owner's other map."""
    owner, length = Owner(), 4 * PAGE
    one = owner.array(map_at(make_file("a", 1), length), length)
    Explained.array = owner.array(map_at(make_file("b", 2), length), length)
    message = samemap.dumps([one[:5], Explained(), one[5:10]])
    first, path, second = samemap.loads(message)
    assert path.endswith("b")
    assert first.tolist() == second.tolist() == [1] * 5


def test_result_after_unmapping(make_file):
    """Memory that the owner has unmapped is not taken for the file."""
    owner, length = Owner(), 4 * PAGE
    address = map_at(make_file("a", 1), length)
    message = samemap.dumps(owner.array(address, length))
    libc.munmap(address, length)
    assert samemap.loads(message)[0] == 1


def test_same_inode_on_two_devices(tmp_path):
    """Small inode numbers are those of many file systems."""
    source = """
        import mmap, os, sys
        sys.path.insert(0, sys.argv[1])
        from pathlib import Path
        import samemap
        from support.foreign import map_at
        from test_distrust import Owner
        paths = [Path(sys.argv[2], name, "file") for name in "ab"]
        for value, path in enumerate(paths, 1):
            path.write_bytes(bytes([value]) * 4096)
        assert paths[0].stat().st_ino == paths[1].stat().st_ino
        owner = Owner()
        address = map_at(paths[0], 4096)
        samemap.dumps(owner.array(address, 4096))
        map_at(paths[1], 4096, address=address)
        print(samemap.loads(samemap.dumps(owner.array(address, 4096)))[0])
    """
    for name in "ab":
        (tmp_path / name).mkdir()
    mounts = " && ".join(f"mount -t tmpfs x {tmp_path / name}" for name in "ab")
    here = os.path.dirname(__file__)
    found = run_script(source, here, tmp_path, prefix=mounted(mounts))
    assert found == "2\n"


@pytest.mark.needs_maps
@pytest.mark.parametrize("source_name", ["ioctl", "text"])
def test_descriptor_of_the_same_inode_on_another_device(tmp_path, source_name):
    """An open file is not taken for the unlinked one whose number it has."""
    source = """
        import sys
        sys.path.insert(0, sys.argv[1])
        from pathlib import Path
        import samemap
        from support.foreign import array_at, map_at
        from samemap import _core
        _core.set_map_table(sys.argv[3])
        paths = [Path(sys.argv[2], name, "file") for name in "ab"]
        for value, path in enumerate(paths, 1):
            path.write_bytes(bytes([value]) * 4096)
        assert paths[0].stat().st_ino == paths[1].stat().st_ino
        array = array_at(map_at(paths[0], 4096), 4096)
        paths[0].unlink()
        with paths[1].open("r+b"):
            print(samemap.explain(array)["reason"])
    """
    for name in "ab":
        (tmp_path / name).mkdir()
    mounts = " && ".join(f"mount -t tmpfs x {tmp_path / name}" for name in "ab")
    here = os.path.dirname(__file__)
    found = run_script(source, here, tmp_path, source_name, prefix=mounted(mounts))
    assert found == "unreachable\n"


def test_chain_without_an_end():
    """Bases that go round in a circle are an error, not a loop."""
    source = """
        import numpy as np
        import samemap
        array = np.lib.stride_tricks.as_strided(np.arange(5))
        array.base.base = array
        try:
            samemap.explain(array)
        except RecursionError as error:
            print(error)
    """
    assert "does not end" in run_script(source, timeout=30)


def test_system_v_segment_is_no_memfd():
    """Their inode numbers, on one device of the kernel's, may be the same."""
    segment = libc.shmget(0, 2 * PAGE, 0o600)
    libc.shmat.restype = ctypes.c_void_p
    address = libc.shmat(segment, None, 0)
    libc.shmctl(segment, 0, None)  # IPC_RMID: gone with the process
    array = Owner().array(address, 2 * PAGE)
    array[:] = 5
    assert "path" not in samemap.explain(array)
    copy = samemap.loads(samemap.dumps(array))
    assert copy.tolist() == array.tolist()


@pytest.mark.needs_maps
@pytest.mark.parametrize("source_name", ["ioctl", "text"])
def test_closed_descriptors(tmp_path, source_name):
    """A daemon closes all it has; the table's number is a user's file then."""
    source = """
        import os, sys
        import numpy as np, samemap
        from samemap import _core
        _core.set_map_table(sys.argv[2])
        array = np.memmap(sys.argv[1] + "/a", "u1", "w+", shape=(100,))
        samemap.explain(array)
        os.closerange(3, 256)
        file = os.open(sys.argv[1] + "/user", os.O_RDWR | os.O_CREAT)
        os.write(file, b"0123456789")
        os.lseek(file, 4, 0)
        other = np.memmap(sys.argv[1] + "/b", "u1", "w+", shape=(100,))
        assert samemap.explain(other)["by_reference"]
        assert os.lseek(file, 0, os.SEEK_CUR) == 4
        child = os.fork()
        if child == 0:
            samemap.explain(np.memmap(sys.argv[1] + "/c", "u1", "w+", shape=(100,)))
            os._exit(os.write(file, b"ab") != 2)
        assert os.waitpid(child, 0)[1] == 0
        print(open(sys.argv[1] + "/user").read())
    """
    assert run_script(source, tmp_path, source_name) == "0123ab6789\n"


@pytest.mark.needs_maps
@pytest.mark.parametrize("asked", [True, False])
def test_closed_descriptor_of_a_file(tmp_path, asked):
    """Nor is that number taken for the file, or closed, once it is a user's."""
    source = """
        import gc, os, sys
        sys.path.insert(0, sys.argv[1])
        from pathlib import Path
        import samemap
        from support.foreign import array_at, map_at

        path = Path(sys.argv[2], "file")
        path.write_bytes(bytes([1]) * 4096)
        array = array_at(map_at(path, 4096), 4096)
        opened = os.open(path, os.O_RDWR)
        path.unlink()
        tell = lambda: samemap.explain(array)["route"] or "none"
        print(tell())
        kept = os.dup2(opened, 300)
        os.closerange(3, 256)
        users = [os.open(path, os.O_RDWR | os.O_CREAT) for _ in range(10)]
        print(tell())
        os.closerange(3, 301)
        users = [os.open(path, os.O_RDWR | os.O_CREAT) for _ in range(20)]
        if sys.argv[3] == "True":
            print(tell())
            assert samemap.loads(samemap.dumps(array)).tolist() == array.tolist()
        del array
        gc.collect()
        for number in users:
            os.fstat(number)
    """
    here = os.path.dirname(__file__)
    found = run_script(source, here, tmp_path, asked)
    routes = ["descriptor", "descriptor", "none"]
    if not machine.DESCRIPTORS:
        routes = ["none"] * 3
    assert found.split() == routes[: 2 + asked]


def test_failed_import_closes_nothing():
    """Descriptor 0 stays open when the extension can't be initialised."""
    source = """
        import gc, os, sys, types
        package = types.ModuleType("samemap")
        package.__path__ = [sys.argv[1]]
        sys.modules["samemap"] = package
        sys.modules["samemap._errors"] = types.ModuleType("samemap._errors")
        try:
            import samemap._core
        except AttributeError:
            gc.collect()
            os.fstat(0)
            print("open")
    """
    assert run_script(source, os.path.dirname(samemap.__file__)) == "open\n"


@pytest.mark.needs_maps
def test_resized_map(make_file):
    """A map that was resized is another one from then on."""
    with make_file("a", 1).open("r+b") as file:
        whole = mmap.mmap(file.fileno(), 0)
    samemap.explain(np.frombuffer(whole, np.uint8))
    whole.resize(2 * PAGE)
    array = np.frombuffer(whole, np.uint8)
    assert samemap.explain(array)["map_length"] == 2 * PAGE
    assert np.shares_memory(samemap.loads(samemap.dumps(array)), array)


@pytest.mark.needs_maps
def test_beyond_the_end_of_the_file(make_file):
    """The rest of the last page is memory of nobody's: it goes by value."""
    path = make_file("a", 1, 100)
    array = Owner().array(map_at(path, 100), 128)
    assert samemap.explain(array)["reason"] == "outside"
    copy = samemap.loads(samemap.dumps(array))
    assert copy.tolist() == [1] * 100 + [0] * 28


@pytest.mark.needs_maps
def test_memory_of_another_owner(make_file):
    """A message can't join a map with an owner that doesn't keep it."""
    array = np.memmap(make_file("a", 1), np.uint8, "r")
    backing = _core.Reducer().reduce(array)[1][0][0]
    layout = b"\0\2\1\0\5\2"  # five items of one byte
    assert _core.rebuild((array.base, backing), layout).tolist() == [1] * 5
    for owner in (mmap.mmap(-1, PAGE), b"bytes", None):
        with pytest.raises(ValueError, match="owner"):
            _core.rebuild((owner, backing), layout)


def test_overflow(make_file):
    """Strides that reach round the address space are refused."""
    array = np.memmap(make_file("a", 1), np.uint8, "r")
    for strides in [(1 << 62,), (-(1 << 62),)]:
        around = np.lib.stride_tricks.as_strided(array, (5,), strides)
        with pytest.raises(ValueError, match="overflow"):
            samemap.explain(around)


@pytest.mark.needs_maps
def test_cut_and_copied(make_file):
    """What can only be copied and is cut is an error too, no signal."""
    source = """
        import os, sys
        sys.path.insert(0, sys.argv[1])
        from pathlib import Path
        import numpy as np
        import samemap
        from support.foreign import array_at, map_at
        from samemap import _core

        def fails(function, *arguments):
            try:
                function(*arguments)
            except samemap.BackingTruncatedError as error:
                print(error.path == str(path))

        path = Path(sys.argv[2])
        array = array_at(map_at(path, 4 * 4096), 4 * 4096)
        with path.open("r+b") as file:
            path.unlink()
            file.truncate(4096)
        assert not _core.describe(array)["reason"] == ""
        try:
            samemap.dumps(array)
        except samemap.BackingTruncatedError as error:
            print(error.found)
        assert samemap.loads(samemap.dumps(array[:512])).tolist() == [
            int.from_bytes(bytes([1]) * 8)
        ] * 512

        path.write_bytes(bytes(64 * 4096))
        private = np.memmap(path, np.int64, "c", shape=(64, 512))
        private += 1
        message = _core.Outgoing()
        reduce = _core.Reducer().reduce
        assert reduce(private[0])[0] is _core.rebuild
        os.truncate(path, 32 * 4096)
        fails(reduce, private[:, 5])
        del message
        fails(reduce, private[:, 5])
    """
    here = os.path.dirname(__file__)
    found = run_script(source, here, make_file("a", 1))
    assert found == "0 bytes\nTrue\nTrue\n"


@pytest.mark.needs_maps
def test_cut_before_the_start(make_file):
    """A file that ends before the map begins is no shorter map of it."""
    path = make_file("a", 1)
    array = Owner().array(map_at(path, PAGE, 2 * PAGE), PAGE)
    os.truncate(path, PAGE)
    with pytest.raises(samemap.BackingTruncatedError):
        _core.describe(array)


@pytest.mark.needs_maps
def test_cut_since(make_file):
    """The length of a map is that of the first look, not of each."""
    path = make_file("a", 1, 4 * PAGE - 100)
    array = Owner().array(map_at(path, 4 * PAGE), 4 * PAGE - 100)
    assert samemap.explain(array)["map_length"] == 4 * PAGE - 100
    os.truncate(path, PAGE)
    with pytest.raises(samemap.BackingTruncatedError) as caught:
        samemap.dumps(array[:10])
    assert caught.value.expected == f"at least {4 * PAGE - 100} bytes"


def test_copy_to_be_written_back(make_file):
    """An array with memory of its own and a base that it will be copied to."""
    array = np.memmap(make_file("a", 0), "u1", "r+")
    flags = [["readwrite", "updateifcopy"]]
    with np.nditer([array[:100]], [], flags, ["f4"], casting="unsafe") as iterator:
        inside = iterator.operands[0]
        assert inside.base is not None
        assert inside.flags.owndata
        assert samemap.explain(inside)["reason"] == "memory"
        assert samemap.loads(samemap.dumps(inside)).tolist() == [0] * 100


@pytest.mark.needs_maps
def test_readonly_map_made_writable_behind(make_file):
    """An mmap.mmap for reading stays so, whatever a library does to its pages."""
    with make_file("a", 1).open("r+b") as file:
        whole = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
    array = np.frombuffer(whole, np.uint8)
    assert libc.mprotect(array.ctypes.data, array.nbytes, PROT_WRITE) == 0
    assert samemap.explain(array)["map_writable"] is False


def readonly_exporter(path):
    address = map_at(path, PAGE, prot=PROT_WRITE)
    return Owner().array(address, PAGE, readonly=True)


def readonly_memoryview(path):
    with path.open("r+b") as file:
        whole = mmap.mmap(file.fileno(), PAGE)
    return np.frombuffer(memoryview(whole).toreadonly(), np.uint8)


@pytest.mark.needs_maps
@pytest.mark.parametrize("make", [readonly_exporter, readonly_memoryview])
def test_given_read_only(make_file, make):
    """Memory that was given read-only can't be made writable on arrival."""
    array = make(make_file("a", 1))
    assert samemap.explain(array)["map_writable"]
    with pytest.raises(ValueError, match="WRITEABLE"):
        array.flags.writeable = True
    here = samemap.dumps(array)
    copy = samemap.loads(here)
    assert np.shares_memory(copy, array)
    elsewhere = samemap.loads(here.replace(token(array)[:8], b"elsewher"))
    assert not np.shares_memory(elsewhere, array)
    for each in (copy, elsewhere):
        assert each.tolist() == array.tolist()
        with pytest.raises(ValueError, match="WRITEABLE"):
            each.flags.writeable = True


@pytest.mark.needs_descriptors
@pytest.mark.skipif(not hasattr(fcntl, "F_ADD_SEALS"), reason="no seals")
def test_sealed_memfd():
    """What may not be mapped writable again goes by value, read-only."""
    fd = os.memfd_create("sealed", os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, PAGE)
    array = np.frombuffer(mmap.mmap(fd, PAGE), np.uint8)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, 0x0010)  # F_SEAL_FUTURE_WRITE
    assert samemap.explain(array)["reason"] == "forbidden"
    assert not samemap.loads(samemap.dumps(array)).flags.writeable
    os.close(fd)


@pytest.mark.needs_maps
def test_anonymous_shared_memory():
    """A copy of memory that others share is read-only: no write gets lost."""
    flags = [
        mmap.MAP_SHARED | mmap.MAP_ANONYMOUS,
        mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS,
    ]
    shared, private = (
        np.frombuffer(mmap.mmap(-1, PAGE, flags=each), np.uint8) for each in flags
    )
    for array in (shared, private):
        assert samemap.explain(array)["reason"] == "anonymous"
    assert not samemap.loads(samemap.dumps(shared)).flags.writeable
    assert samemap.loads(samemap.dumps(private)).flags.writeable


def cut(path):
    """As a task: a result on a file that became shorter."""
    array = np.memmap(path, np.uint8, "r+").view(np.recarray)
    os.truncate(path, 10)
    return array


@pytest.mark.parametrize("backend", ["loky", "multiprocessing"])
@pytest.mark.parametrize("direction", ["task", "result"])
def test_truncated_subclass(make_file, backend, direction):
    """The typed error, as for an ordinary array, and the pool lives on."""
    path = make_file("a", 1)
    task = delayed(len)(cut(path)) if direction == "task" else delayed(cut)(path)
    with pytest.raises(samemap.BackingTruncatedError):
        Parallel(n_jobs=2, backend=backend)([task])
    assert Parallel(n_jobs=2, backend=backend)([delayed(len)([1])]) == [1]


@pytest.mark.needs_maps
def test_recarray_is_one_class(make_file):
    """NumPy loads numpy.rec late; the worker's class is that of the table."""
    source = """
        import sys
        import numpy as np, samemap
        from joblib import Parallel, delayed

        def records(path):
            return np.memmap(path, [("x", "u1")], "r").view(np.recarray)

        if __name__ == "__main__":
            [result] = Parallel(n_jobs=2)([delayed(records)(sys.argv[1])])
            print(type(result) is np.recarray, samemap.explain(result)["by_reference"])
    """
    assert run_script(source, make_file("a", 1)) == "True True\n"
