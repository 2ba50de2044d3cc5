"""Maps from before a fork: is there still one, and is its file still that long?"""

import mmap
import os

import numpy as np
import pytest
import samemap
from joblib import Parallel, delayed
from support.scripts import run_script

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")

PAGE = mmap.PAGESIZE

needs_dontfork = pytest.mark.skipif(
    not hasattr(mmap, "MADV_DONTFORK"), reason="no MADV_DONTFORK"
)


@needs_dontfork
@pytest.mark.needs_maps
@pytest.mark.parametrize("pages", ["all", "first", "middle", "last"])
@pytest.mark.parametrize("mode", ["r", "r+"])
def test_not_inherited(tmp_path, pages, mode):
    """A forked worker maps anew what the fork left out, and answers."""
    source = """
        import mmap, sys
        import numpy as np, samemap
        from joblib import Parallel, delayed

        path, pages, mode = sys.argv[1:]
        np.arange(8 * 512.0).tofile(path)
        array = np.memmap(path, np.float64, mode)
        assert samemap.explain(array)["by_reference"]  # known before the fork
        part = {"all": (0, 8), "first": (0, 1), "middle": (3, 2), "last": (7, 1)}
        start, count = (mmap.PAGESIZE * n for n in part[pages])
        array._mmap.madvise(mmap.MADV_DONTFORK, start, count)
        with Parallel(2, backend="multiprocessing") as parallel:
            for _ in range(3):
                found = parallel(delayed(np.sum)(array[i::2]) for i in (0, 1))
                assert found == [array[::2].sum(), array[1::2].sum()]
            back, = parallel([delayed(np.asarray)(array[::-1])])
        np.testing.assert_array_equal(back, array[::-1])
        assert samemap.stats()["by reference"]["arrays"] > 0
    """
    run_script(source, tmp_path / "data", pages, mode)


@needs_dontfork
@pytest.mark.needs_maps
def test_another_map_in_its_place(tmp_path):
    """Where the fork left a gap, the child has mapped something else since."""
    source = """
        import ctypes, mmap, os, sys
        from pathlib import Path
        sys.path.insert(0, sys.argv[1])
        import numpy as np, samemap
        from support.foreign import map_at

        path, other = Path(sys.argv[2]), Path(sys.argv[2] + ".other")
        np.full(4096, 1).tofile(path)
        np.full(4096, 2).tofile(other)
        array = np.memmap(path, np.int64, "r")
        message = samemap.dumps(array)
        array._mmap.madvise(mmap.MADV_DONTFORK)
        pid = os.fork()
        if pid == 0:
            address = array.ctypes.data
            assert map_at(other, array.nbytes, address=address) == address
            os._exit(0 if (samemap.loads(message) == 1).all() else 3)
        assert os.waitpid(pid, 0)[1] == 0
    """
    run_script(source, os.path.dirname(__file__), tmp_path / "data")


def shorten_and_load(message, path, size):
    """Load a message whose file has become shorter on its way."""
    os.truncate(path, size)
    try:
        return samemap.loads(message).tolist()
    except samemap.BackingTruncatedError as error:
        return error.path


@pytest.mark.parametrize("mode", ["r", "r+"])
@pytest.mark.parametrize("size", [0, PAGE, 4 * PAGE, 4 * PAGE - 8])
@pytest.mark.needs_maps
def test_file_has_shrunk(tmp_path, mode, size):
    """A forked worker whose inherited map has lost its end says so, as any other."""
    path = tmp_path / "data"
    np.arange(4 * PAGE // 8 + 1).tofile(path)
    array = np.memmap(path, np.int64, mode)
    message = samemap.dumps(array)
    task = delayed(shorten_and_load)(message, path, size)
    found = Parallel(2, backend="multiprocessing", timeout=60)([task])
    assert found == [os.fspath(path)]
