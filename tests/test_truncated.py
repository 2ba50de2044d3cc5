"""A file that is shorter now than what is mapped of it: a typed error, no signal."""

import mmap
import os

import numpy as np
import pytest
import samemap
from joblib import Parallel, delayed
from samemap import _core
from support.foreign import Owner, map_at
from support.scripts import run_script

PAGE = mmap.PAGESIZE


@pytest.mark.needs_maps
def test_cut_and_copied(make_file):
    """What can only be copied and is cut is an error too, no signal."""
    source = """
        import os, sys
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

        path = Path(sys.argv[1])
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
    found = run_script(source, make_file("a", 1))
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


def cut(path):
    """As a task: a result on a file that became shorter."""
    array = np.memmap(path, np.uint8, "r+").view(np.recarray)
    os.truncate(path, 10)
    return array


@pytest.mark.parametrize("direction", ["task", "result"])
def test_truncated_subclass(make_file, backend, direction):
    """The typed error, as for an ordinary array, and the pool lives on."""
    path = make_file("a", 1)
    task = delayed(len)(cut(path)) if direction == "task" else delayed(cut)(path)
    with pytest.raises(samemap.BackingTruncatedError):
        Parallel(n_jobs=2, backend=backend)([task])
    assert Parallel(n_jobs=2, backend=backend)([delayed(len)([1])]) == [1]
