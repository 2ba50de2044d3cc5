"""A forked child: its parent's mappings, but a registry and a map table of its own."""

import pytest
from support.scripts import run_script

pytestmark = pytest.mark.needs_maps

CHILD = """
import os, pickle, sys
import numpy as np
import samemap
from samemap import _core
from support.references import elsewhere, reference, token

def new(name):
    array = np.memmap(sys.argv[1] + name, np.int64, "w+", shape=(100,))
    array[:] = np.arange(100)
    return array

def in_child(function):
    # What the child returns comes back as a pickle, its errors as its status.
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.write(writer, pickle.dumps(function()))
            os._exit(0)
        finally:
            os._exit(1)
    os.close(writer)
    with open(reader, "rb") as file:
        result = pickle.loads(file.read())
    assert os.waitpid(pid, 0)[1] == 0
    return result

inherited = new("/inherited")
samemap.explain(inherited)  # fills the registry, opens the map table
"""


def test_tokens(tmp_path):
    """The child keeps the tokens of inherited maps and makes other new ones."""
    source = """
        mine = token(inherited)
        def child():
            return token(inherited), token(new("/child"))
        same, other = in_child(child)
        again = token(new("/parent"))
        assert same == mine
        assert len({mine[:8], other[:8]}) == 2
        assert again[:8] == mine[:8] and again != mine
    """
    run_script(CHILD + source.replace("\n        ", "\n"), tmp_path)


@pytest.mark.parametrize("fork", ["os.fork()", "ctypes.PyDLL(None).fork()"])
def test_map_table(tmp_path, fork):
    """The child is told of its own memory, even where C has forked it."""
    source = """
        import ctypes, mmap
        libc = ctypes.CDLL(None)
        libc.mmap.restype = ctypes.c_void_p
        libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3,
                              ctypes.c_long]
        def map_at(name, address=None):
            new(name)
            with open(sys.argv[1] + name, "r+b") as file:
                flags = mmap.MAP_SHARED | (0x10 if address else 0)
                return libc.mmap(address, 4096, 1, flags, file.fileno(), 0)
        address = map_at("/first")
        array = np.frombuffer((ctypes.c_char * 800).from_address(address), np.int64)
        path = lambda: samemap.explain(array)["path"]
        assert path().endswith("/first")
        def child():
            map_at("/second", address)
            return path()
        assert in_child(child).endswith("/second")
        assert path().endswith("/first")
    """
    frame = CHILD.replace("import os", "import ctypes, os").replace("os.fork()", fork)
    run_script(frame + source.replace("\n        ", "\n"), tmp_path)


def test_results(tmp_path):
    """What a child sends of an inherited map is in the parent on a map of its own."""
    source = """
        def child():
            message = _core.Outgoing()
            reduce = _core.Reducer(backward=True).reduce
            return pickle.dumps(Reduced(*reduce(inherited[::-1])))
        result = in_child(child)
        result = pickle.loads(result)
        assert result.tolist() == list(range(99, -1, -1))
        assert not np.shares_memory(result, inherited)
        inherited[3] = 33
        assert result[96] == 33
        assert type(result.base) is np.memmap
        assert result.base._mmap is not inherited._mmap
        inherited._mmap.close()
        assert result[96] == 33
    """
    run_script(CHILD + REDUCED + source.replace("\n        ", "\n"), tmp_path)


REDUCED = """
class Reduced:
    # Pickled as what a reducer has returned.
    def __init__(self, *reduction):
        self.reduction = reduction
    def __reduce__(self):
        return self.reduction
"""


def test_results_on_a_file_that_is_gone(tmp_path):
    """A child's result needs no file where it is a copy: of all but np.memmaps."""
    source = """
        from pathlib import Path
        from support.foreign import array_at, map_at
        path = Path(sys.argv[1], "file")
        path.write_bytes(bytes(800))
        array = array_at(map_at(path, 800), 800)
        samemap.explain(array)
        def child():
            path.unlink()
            reduce = _core.Reducer(backward=True).reduce
            return pickle.dumps(Reduced(*reduce(array[::-1])))
        result = pickle.loads(in_child(child))
        assert result.tolist() == [0] * 100
        assert not np.shares_memory(result, array)
    """
    run_script(CHILD + REDUCED + source.replace("\n        ", "\n"), tmp_path)


@pytest.mark.needs_descriptors
def test_inherited_map(tmp_path):
    """A child reads its parent's message on a map of its own, as other processes."""
    source = """
        message = samemap.dumps(inherited)
        os.unlink(sys.argv[1] + "/inherited")
        def child():
            copy = samemap.loads(message)
            return np.shares_memory(copy, inherited), copy.tolist()
        assert in_child(child) == (False, list(range(100)))
        assert not np.shares_memory(samemap.loads(message), inherited)
    """
    run_script(CHILD + source.replace("\n        ", "\n"), tmp_path)


def test_result_on_an_anonymous_map(tmp_path):
    """Memory without a file is copied by the child, too."""
    source = """
        import mmap
        array = np.frombuffer(mmap.mmap(-1, 800), np.int64)
        array[:] = np.arange(100)
        samemap.explain(array)
        def child():
            function, arguments = _core.Reducer(backward=True).reduce(array[::-1])
            assert type(arguments[0]) is not _core.Backing
            return function(*arguments).tolist()
        assert in_child(child) == list(range(99, -1, -1))
    """
    run_script(CHILD + source.replace("\n        ", "\n"), tmp_path)


@pytest.mark.needs_descriptors
def test_threads_of_the_parent(tmp_path):
    """What another thread of the parent writes or starts is none of the child's."""
    source = """
        import threading
        from samemap._envelope import _TASKS
        started, done = threading.Event(), threading.Event()
        private = np.memmap(sys.argv[1] + "/inherited", np.int64, "c")

        def write():
            message = _core.Outgoing()
            message.objects([(len, (private,), {})], {})
            message.enter(_TASKS)
            assert _core.Reducer().reduce(private)[0] is _core.pending
            started.set()
            done.wait()
        thread = threading.Thread(target=write, daemon=True)
        thread.start()
        started.wait()
        def child():
            # Threads of the child may get the parent's thread numbers.
            found = []
            def work():
                found.append(_core.Reducer().reduce(private)[0] is _core.rebuild)
                message = _core.Outgoing()
                found.append(samemap.loads(samemap.dumps(private))[3] == 3)
                message.close()
            threads = [threading.Thread(target=work) for _ in range(20)]
            for t in threads: t.start()
            for t in threads: t.join()
            return found
        assert in_child(child) == [True] * 40
        done.set()
        thread.join()
    """
    run_script(CHILD + source.replace("\n        ", "\n"), tmp_path)
