"""Files that nobody may open again are copied; and what looking may not cost."""

import ctypes
import fcntl
import mmap
import os
import subprocess
import sys

import numpy as np
import pytest
import samemap
from support.scripts import run_script

pytestmark = pytest.mark.needs_maps

COMMON = """
import ctypes, mmap, os, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import numpy as np, samemap
from joblib import Parallel, delayed

libc = ctypes.CDLL(None, use_errno=True)

def arrives(array):
    tasks = [delayed(np.sum)(array[i:]) for i in range(3)]
    found = Parallel(2, backend=sys.argv[3], max_nbytes=None)(tasks)
    assert found == [array[i:].sum() for i in range(3)]
"""

# <linux/landlock.h>: a domain in which files may be read below some folders only.
LANDLOCK = """
CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446
READ_FILE = 1 << 2

class PathBeneath(ctypes.Structure):
    _pack_ = 1
    _fields_ = [("allowed", ctypes.c_uint64), ("fd", ctypes.c_int32)]

def forbid_reading(*but_not_below):
    handled = ctypes.c_uint64(READ_FILE)
    ruleset = libc.syscall(CREATE_RULESET, ctypes.byref(handled), 8, 0)
    if ruleset < 0:
        print("no Landlock")
        sys.exit()
    for folder in but_not_below:
        rule = PathBeneath(READ_FILE, os.open(folder, os.O_PATH))
        assert libc.syscall(ADD_RULE, ruleset, 1, ctypes.byref(rule), 0) == 0
    assert libc.prctl(38, 1, 0, 0, 0) == 0  # PR_SET_NO_NEW_PRIVS
    assert libc.syscall(RESTRICT_SELF, ruleset, 0) == 0

data = Path(sys.argv[2])
others = [f"/{n}" for n in os.listdir("/") if not data.is_relative_to(f"/{n}")]
others += [p for p in sys.path if os.path.isdir(p)]
others += [sys.prefix]
"""


# memfd_secret(2): memory that even the system may not read.
SECRET = """
fd = libc.syscall(447, 0)
if fd < 0:
    print("no memfd_secret")
    sys.exit()
os.ftruncate(fd, 48_000)
"""


def run(source, folder, backend):
    here = os.path.dirname(__file__)
    return run_script(source, here, folder, backend)


@pytest.mark.parametrize("mode", ["r", "c", "r+"])
@pytest.mark.parametrize("unlinked", [False, True], ids=["named", "nameless"])
@pytest.mark.needs_descriptors
def test_landlock(tmp_path, backend, mode, unlinked):
    """access() says yes, open() no: a copy arrives, and `explain` knows."""
    data = tmp_path / "data"
    data.mkdir()
    source = f"""
np.arange(6000.0).tofile(data / "file")
array = np.memmap(data / "file", np.float64, {mode!r})
if {unlinked}:
    os.unlink(data / "file")
forbid_reading(*others)
try:
    open(data / "file").close()
except (PermissionError, FileNotFoundError):
    pass
else:
    sys.exit("Landlock does not hold")
told = samemap.explain(array)
assert not told["by_reference"], told
assert told["reason"] == "forbidden", told
arrives(array)
"""
    if "no Landlock" in run(COMMON + LANDLOCK + source, data, backend):
        pytest.skip("no Landlock")


@pytest.mark.needs_descriptors
def test_secret_memory(tmp_path, backend):
    """memfd_secret can't be opened at all, nor read by the system: copied."""
    source = """
array = np.frombuffer(mmap.mmap(fd, 48_000), np.float64)
array[:] = np.arange(6000)
told = samemap.explain(array)
assert not told["by_reference"], told
assert told["reason"] == "forbidden", told
arrives(array)
np.testing.assert_array_equal(samemap.loads(samemap.dumps(array)), array)
"""
    if "no memfd_secret" in run(COMMON + SECRET + source, tmp_path, backend):
        pytest.skip("no memfd_secret")


def test_secret_memory_of_nobody(tmp_path, backend):
    """The same where no descriptor of it is left."""
    source = """
libc.mmap.restype = ctypes.c_void_p
address = libc.mmap(None, 48_000, 3, mmap.MAP_SHARED, fd, 0)
os.close(fd)
array = np.frombuffer((ctypes.c_char * 48_000).from_address(address), np.float64)
array[:] = np.arange(6000)
assert not samemap.explain(array)["by_reference"]
arrives(array)
"""
    if "no memfd_secret" in run(COMMON + SECRET + source, tmp_path, backend):
        pytest.skip("no memfd_secret")


def is_locked(path):
    """Whether another process is kept from locking the file."""
    source = """
import fcntl, sys
try:
    fcntl.lockf(open(sys.argv[1], "r+b"), fcntl.LOCK_EX | fcntl.LOCK_NB)
except OSError:
    print("locked")
"""
    command = [sys.executable, "-c", source, f"/proc/{os.getpid()}/fd/{path}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return "locked" in done.stdout


@pytest.mark.needs_descriptors
@pytest.mark.parametrize("unlinked", [False, True], ids=["named", "nameless"])
def test_locks_stay(memmap_path, unlinked):
    """A lock on the file survives: whoever closes a file gives up his locks on it."""
    libc = ctypes.CDLL(None)
    libc.mmap.restype = ctypes.c_void_p
    with open(memmap_path, "r+b") as file:
        nbytes = os.path.getsize(memmap_path)
        prot = mmap.PROT_READ | mmap.PROT_WRITE
        flags = mmap.MAP_SHARED
        address = libc.mmap(None, nbytes, prot, flags, file.fileno(), 0)
        memory = (ctypes.c_char * nbytes).from_address(address)
        array = np.frombuffer(memory, np.float64)
        if unlinked:
            os.unlink(memmap_path)
        fcntl.lockf(file, fcntl.LOCK_EX)
        assert is_locked(file.fileno())
        assert samemap.explain(array)["by_reference"]
        samemap.dumps(array[::-1])
        assert is_locked(file.fileno())
        del memory, array
        assert is_locked(file.fileno())
