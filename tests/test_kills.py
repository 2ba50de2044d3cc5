"""Processes killed in the middle of a task, and file systems that are full."""

import os
import re
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
from joblib import Parallel, delayed
from joblib.externals.loky.process_executor import TerminatedWorkerError
from support.scripts import mounted

SHARED_MEMORY = Path("/dev/shm")


def total(*arrays):
    return float(sum(array.sum() for array in arrays))


def total_and_die(array):
    array.sum()
    os.kill(os.getpid(), signal.SIGKILL)


def files(folder):
    return sorted(str(path) for path in folder.rglob("*"))


@pytest.fixture
def mapped(tmp_path):
    array = np.memmap(tmp_path / "data", np.float64, "w+", shape=(50, 40))
    array[:] = 2
    return array


@pytest.fixture
def unlinked(tmp_path):
    array = np.memmap(tmp_path / "unlinked", np.float64, "w+", shape=(50, 40))
    array[:] = 3
    (tmp_path / "unlinked").unlink()
    return array


def test_killed_worker(mapped, unlinked, tmp_path):
    """The caller is told, no map's file is harmed, and the next call works."""
    before = files(tmp_path)
    for array in (mapped, unlinked):
        with pytest.raises(TerminatedWorkerError):
            Parallel(n_jobs=2)([delayed(total_and_die)(array.T)])
        assert Parallel(n_jobs=2)([delayed(total)(mapped.T, unlinked)]) == [10000]
    assert files(tmp_path) == before


def start(source, folder, *arguments, prefix=(), **environment):
    # A file, not -c: a worker that is not forked imports its functions from there.
    script = folder / "script.py"
    script.write_text(textwrap.dedent(source))
    return subprocess.Popen(
        [*prefix, sys.executable, script, folder, *arguments],
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_killed_parent(backend, tmp_path):
    """Its workers end too, and leave no file in any folder for temporaries."""
    psutil = pytest.importorskip("psutil")
    source = """
        import os, sys
        import numpy as np
        import samemap
        from joblib import Parallel, delayed

        def work(mapped, unlinked, dumped, gate):
            assert mapped.sum() + unlinked.sum() + dumped.sum() > 0
            os.write(1, b"working\\n")
            open(gate).close()
            return mapped

        if __name__ == "__main__":
            folder, backend = sys.argv[1:]
            mapped = np.memmap(folder + "/a", float, "w+", shape=(100,))
            mapped[:] = 1
            unlinked = np.memmap(folder + "/b", float, "w+", shape=(100,))
            os.unlink(folder + "/b")
            dumped = np.ones(10**5)
            Parallel(n_jobs=2, backend=backend, max_nbytes=1000)(
                [delayed(work)(mapped[::-1], unlinked, dumped, folder + "/gate")] * 2
            )
    """
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    process = start(source, tmp_path, backend, JOBLIB_TEMP_FOLDER=str(temporary))
    try:
        assert process.stdout.readline() == "working\n"
        assert process.stdout.readline() == "working\n"
        family = psutil.Process(process.pid).children(recursive=True)
    finally:
        process.kill()
    process.wait()
    if backend == "loky":
        # Its workers need a minute to notice: here they share the parent's end.
        for child in family:
            if "resource_tracker" not in " ".join(child.cmdline()):
                child.kill()
    # Only now may the tasks go on: their results find nobody.
    opened = os.open(gate, os.O_RDWR)
    _, alive = psutil.wait_procs(family, timeout=100)
    os.close(opened)
    assert alive == []
    assert (tmp_path / "a").stat().st_size == 800
    assert files(temporary) == []
    # The names of joblib's folders and of loky's semaphores have the process in them,
    # beside random digits, and those of the process that runs this test stay.
    own = re.compile(rf"[-_]{process.pid}[-_]")
    assert [name for name in files(SHARED_MEMORY) if own.search(name)] == []


def in_small(folder, size):
    """Return a prefix that runs a program with a small, empty file system there."""
    return mounted(f"mount -t tmpfs -o size={size} small {folder}")


@pytest.mark.needs_descriptors
def test_full_disk(backend, tmp_path):
    """No room for joblib's dump: that error itself; mapped arrays need no room."""
    source = """
        import sys
        import numpy as np
        import samemap
        from joblib import Parallel, delayed

        if __name__ == "__main__":
            folder, backend = sys.argv[1:]
            array = np.memmap(folder + "/data", np.uint8, "w+", shape=(10**6,))
            array[:] = 1
            options = {"n_jobs": 2, "backend": backend, "max_nbytes": 1000,
                       "temp_folder": folder + "/small"}
            try:
                Parallel(mmap_mode="r", **options)([delayed(np.sum)(np.ones(10**6))])
            except OSError as error:
                print(type(error).__name__, error.errno)
            parallel = Parallel(**options)
            print(*parallel([delayed(np.sum)(array[::-1])] * 2))
            # A folder in memory is no wish to spare memory: there is memfd.
            print(*parallel([delayed(np.sum)(np.ones(10**6))] * 2))
    """
    small = tmp_path / "small"
    small.mkdir()
    process = start(source, tmp_path, backend, prefix=in_small(small, "100k"))
    output, errors = process.communicate(timeout=100)
    assert output == "OSError 28\n1000000 1000000\n1000000.0 1000000.0\n", errors


def test_small_shared_memory(backend, tmp_path):
    """With hardly any /dev/shm all goes on, large arrays through a folder."""
    source = """
        import sys
        import numpy as np
        import samemap
        from joblib import Parallel, delayed

        if __name__ == "__main__":
            folder, backend = sys.argv[1:]
            array = np.memmap(folder + "/data", np.uint8, "w+", shape=(10**6,))
            array[:] = 1
            parallel = Parallel(n_jobs=2, backend=backend, max_nbytes=1000)
            tasks = [array[::-1], np.ones(10**6)]
            print(*parallel(delayed(np.sum)(a) for a in tasks))
    """
    prefix = in_small(SHARED_MEMORY, "256k")
    process = start(source, tmp_path, backend, prefix=prefix)
    output, errors = process.communicate(timeout=100)
    assert output == "1000000 1000000.0\n", errors
