"""What may be read but not written: by permission, by its map, or as it was given."""

import fcntl
import mmap
import os
import shutil
import subprocess
import tempfile

import numpy as np
import pytest
import samemap
from support.foreign import Owner, libc, map_at
from support.references import token
from support.scripts import run_script

pytestmark = pytest.mark.needs_maps

PAGE = mmap.PAGESIZE
PROT_WRITE = mmap.PROT_READ | mmap.PROT_WRITE

FRAME = """
import os, sys
import numpy as np
import samemap
from support.references import backing, elsewhere, reference

path = sys.argv[1] + "/data"
np.arange(1000.0).tofile(path)
"""


@pytest.fixture
def run(tmp_path):
    """Return a function that runs a script after `FRAME`, as anybody but root."""
    prefix = []
    if os.geteuid() == 0:
        prefix = ["setpriv", "--bounding-set", "-all", "--inh-caps", "-all"]
        if shutil.which(prefix[0]) is None:
            pytest.skip("root may do everything")
        if subprocess.run([*prefix, "true"], capture_output=True).returncode != 0:
            pytest.skip("root's privileges can't be given up")

    def run(source):
        return run_script(FRAME + source, tmp_path, prefix=prefix)

    return run


@pytest.mark.needs_pagemap
@pytest.mark.parametrize("mode", ["r", "c"])
def test_nothing_is_written(run, mode):
    """Read-only and private maps of a file that can't be written are sent."""
    run(f"""
os.chmod(path, 0o444)
array = np.memmap(path, np.float64, {mode!r})
array = array[::-1]
assert samemap.explain(array)["by_reference"]
other = elsewhere(reference(array))
if {mode!r} == "c":
    other[:8] = bytes([255] * 8)
    assert array[-1] == 0
assert other[8:16] == np.float64(1).tobytes()
""")


def test_forbidden_since(run):
    """A map that was writable when the file was: its copy is read-only."""
    run("""
array = np.memmap(path, np.float64, "r+")
os.chmod(path, 0o444)
told = samemap.explain(array)
assert told["reason"] == "forbidden", told
copy = samemap.loads(samemap.dumps(array))
assert copy.tolist() == array.tolist()
assert not copy.flags.writeable and not np.shares_memory(copy, array)
""")


def test_forbidden_while_pickling(run):
    """Between the view and its backing, and when it arrives: the typed error."""
    run("""
array = np.memmap(path, np.float64, "r+")
arguments, here = reference(array), backing(array)
os.chmod(path, 0o444)
for function in (here.__reduce__, lambda: elsewhere(arguments)):
    try:
        function()
    except samemap.BackingPermissionError as error:
        assert error.path == path, error
        assert error.errno == 13, error.errno
    else:
        raise SystemExit("no error")
""")


@pytest.mark.skipif(os.geteuid() != 0, reason="needs another user")
def test_effective_user(tmp_path):
    """Whom the process acts for decides, as it does when the file is opened."""
    source = """
array = np.memmap(path, np.float64, "r+")
samemap.explain(array)
try:
    os.seteuid(65534)
except PermissionError:
    print("may not")
else:
    print(samemap.explain(array)["reason"])
"""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        found = run_script(FRAME + source, folder)
    if found == "may not\n":
        pytest.skip("root without the capability to become another user")
    assert found == "forbidden\n"


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
    assert not np.shares_memory(copy, array)
    elsewhere = samemap.loads(here.replace(token(array)[:8], b"elsewher"))
    assert not np.shares_memory(elsewhere, array)
    for each in (copy, elsewhere):
        assert each.tolist() == array.tolist()
        with pytest.raises(ValueError, match="WRITEABLE"):
            each.flags.writeable = True


@pytest.mark.needs_descriptors
@pytest.mark.skipif(not hasattr(fcntl, "F_ADD_SEALS"), reason="no seals")
def test_sealed_memfd():
    """What may not be mapped writable again goes by value, writeable as it was."""
    fd = os.memfd_create("sealed", os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, PAGE)
    array = np.frombuffer(mmap.mmap(fd, PAGE), np.uint8)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, 0x0010)  # F_SEAL_FUTURE_WRITE
    assert samemap.explain(array)["reason"] == "forbidden"
    copy = samemap.loads(samemap.dumps(array))
    assert copy.flags.writeable
    copy[:] = 1
    assert not array.any()
    os.close(fd)


@pytest.mark.needs_maps
def test_anonymous_shared_memory():
    """Memory without a file is copied, writeable as it was, whoever shares it."""
    flags = [
        mmap.MAP_SHARED | mmap.MAP_ANONYMOUS,
        mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS,
    ]
    shared, private = (
        np.frombuffer(mmap.mmap(-1, PAGE, flags=each), np.uint8) for each in flags
    )
    for array in (shared, private):
        assert samemap.explain(array)["reason"] == "anonymous"
        copy = samemap.loads(samemap.dumps(array))
        assert copy.flags.writeable
        copy[:] = 1
        assert not array.any()
