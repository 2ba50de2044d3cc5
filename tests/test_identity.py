"""Files that share their numbers: a snapshot's (btrfs), a copied-up one (overlayfs).

Device and inode are necessary, not sufficient: the worker gets what the caller
sees, or a typed error where the map isn't.
"""

import os
import shutil

import pytest
from support.scripts import mounted, run_script

pytestmark = pytest.mark.needs_maps

COMMON = """
import ctypes, gc, mmap, os, pickle, subprocess, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import numpy as np, samemap
from support.foreign import array_at, map_at
from joblib import Parallel, delayed

os.chdir(sys.argv[2])
backend, how = sys.argv[3:5]
N = 40_000  # int64: 78 pages and a part

def write(path, value):
    # In place: the inode stays.
    with open(path, "r+b" if os.path.exists(path) else "wb") as file:
        file.write(np.full(N, value).tobytes())
        os.fsync(file.fileno())

def open_map(path):
    # "foreign": by an owner that keeps no descriptor, as pyarrow does
    if how == "foreign":
        return array_at(map_at(Path(path), 8 * N, flags=mmap.MAP_PRIVATE), 8 * N)
    return np.memmap(path, np.int64, how)

def look(array):
    return array.min(), array.max()

def arrives(array, value):
    told = samemap.explain(array)
    tasks = [delayed(look)(array[i:]) for i in range(4)]
    found = Parallel(n_jobs=2, backend=backend, max_nbytes=None)(tasks)
    assert {*found} == {(value, value)}, (found, value, told)
    return told

def subvolume(*command):
    subprocess.run(["btrfs", "-q", "subvolume", *command], check=True)
"""


@pytest.fixture
def btrfs(tmp_path, backend):
    """Return a function that runs a script in a btrfs with `live` and `snap`."""
    for program in ("mkfs.btrfs", "btrfs"):
        if shutil.which(program) is None:
            pytest.skip(f"no {program}")
    image, folder = tmp_path / "image", tmp_path / "mounted"
    folder.mkdir()
    with image.open("wb") as file:
        file.truncate(200 << 20)
    prefix = mounted(f"mkfs.btrfs -q -f {image} && mount -o loop {image} {folder}")
    frame = """
subvolume("create", "live")
write("live/data", 1)
os.sync()
subvolume("snapshot", "live", "snap")
write("snap/data", 2)
assert os.stat("live/data").st_ino == os.stat("snap/data").st_ino
"""

    def run(source, how):
        here = os.path.dirname(__file__)
        script = COMMON + frame + source
        return run_script(script, here, folder, backend, how, prefix=prefix)

    return run


@pytest.fixture
def overlay(tmp_path, backend):
    """Return a function that runs a script in an overlay on `low/data`."""
    mounts = f"mount -t tmpfs x {tmp_path} && cd {tmp_path} && mkdir low up work merged"
    mounts += " && mount -t overlay x -o lowerdir=low,upperdir=up,workdir=work merged"
    prefix = mounted(mounts)
    frame = """
write("low/data", 1)

def copy_up(value):
    # As another process would that opens it for writing.
    write("merged/data", value)
"""

    def run(source, how):
        here = os.path.dirname(__file__)
        script = COMMON + frame + source
        return run_script(script, here, tmp_path, backend, how, prefix=prefix)

    return run


MODES = pytest.mark.parametrize("how", ["r", "c", "r+", "foreign"])


@MODES
def test_snapshot_and_original(btrfs, how):
    """Both are open: each arrives as itself, by reference and by its path."""
    btrfs(
        """
live, snap = open_map("live/data"), open_map("snap/data")
for array, value in (live, 1), (snap, 2), (live, 1):
    told = arrives(array, value)
    assert told["by_reference"] and told["route"] == "path", told
""",
        how,
    )


@MODES
def test_live_file_replaced(btrfs, how):
    """The live file has lost its path while a snapshot's is open: not that one's."""
    btrfs(
        """
held = [open("snap/data", "rb") for _ in range(3)]
live, snap = open_map("live/data"), open_map("snap/data")
write("live/new", 3)
os.replace("live/new", "live/data")
arrives(live, 1)
arrives(snap, 2)
""",
        how,
    )


@MODES
def test_snapshot_mounted_over(btrfs, how):
    """A snapshot is mounted over the directory: its file is another one."""
    btrfs(
        """
live = open_map("live/data")
subprocess.run(["mount", "--bind", "snap", "live"], check=True)
assert np.fromfile("live/data", np.int64)[0] == 2
arrives(live, 1)
arrives(open_map("live/data"), 2)
arrives(live, 1)
""",
        how,
    )


def test_snapshot_mapped_where_the_original_was(btrfs):
    """An owner maps a snapshot's file at an address where the live one was known."""
    btrfs(
        """
address = map_at(Path("live/data"), 8 * N)
array = array_at(address, 8 * N)
arrives(array, 1)
assert map_at(Path("snap/data"), 8 * N, address=address) == address
arrives(array, 2)
""",
        "foreign",
    )


def test_one_map_of_each_side_by_side(btrfs):
    """Maps that seem to continue each other are of two files all the same."""
    btrfs(
        """
pages = 30 * mmap.PAGESIZE
address = map_at(Path("live/data"), 2 * pages)
map_at(Path("snap/data"), pages, offset=pages, address=address + pages)
array = array_at(address, 2 * pages)
half = array.size // 2
arrives(array[:half], 1)
arrives(array[half:], 2)
message = samemap.dumps(array)
np.testing.assert_array_equal(samemap.loads(message), array)
""",
        "foreign",
    )


@MODES
def test_overlay_by_reference(overlay, how):
    """Nothing was copied up since the file was mapped: it is sent by its path."""
    overlay(
        """
told = arrives(open_map("merged/data"), 1)
assert told["by_reference"] and told["route"] == "path", told
""",
        how,
    )


@pytest.mark.parametrize("how", ["r", "c", "foreign"])
@pytest.mark.parametrize("sent", [True, False], ids=["known", "new"])
def test_copied_up(overlay, how, sent):
    """The caller goes on seeing the old bytes; so does the worker, known or not."""
    overlay(
        f"""
array = open_map("merged/data")
assert array[:1] == [1]
if {sent}:
    arrives(array, 1)
else:
    look(array)
copy_up(2)
if look(array) == (2, 2):
    sys.exit()  # this system's overlayfs shows the new bytes in old maps
arrives(array, 1)
arrives(array, 1)
arrives(open_map("merged/data"), 2)
arrives(array, 1)
""",
        how,
    )


@pytest.mark.parametrize("how", ["r", "c"])
def test_copied_up_with_a_message_under_way(overlay, how):
    """What a message named is another file when it is read: a typed error."""
    overlay(
        """
array = open_map("merged/data")
message = samemap.dumps(array)
copy_up(2)

def load(message):
    try:
        return look(samemap.loads(message))
    except samemap.BackingReplacedError as error:
        return error.path

found = Parallel(n_jobs=2, backend=backend)([delayed(load)(message)] * 2)
assert found == [os.path.abspath("merged/data")] * 2
assert load(message) == os.path.abspath("merged/data")
""",
        how,
    )


@pytest.mark.parametrize("how", ["r", "r+", "c"])
def test_mapped_twice(btrfs, how):
    """Pages that others have mapped too: shared maps are proven in another way.

    For private ones there is no proof: a copy, and `explain` says why.
    """
    btrfs(
        """
first, second = open_map("live/data"), open_map("live/data")
snap, again = open_map("snap/data"), open_map("snap/data")
for array, value in (first, 1), (second, 1), (snap, 2), (again, 2):
    assert look(array) == (value, value)
for array, value in (first, 1), (second, 1), (snap, 2), (again, 2):
    told = arrives(array, value)
    assert told["by_reference"] == (how != "c"), told
    assert told["reason"] == ("unproven" if how == "c" else ""), told
write("live/new", 3)
os.replace("live/new", "live/data")
arrives(first, 1)
""",
        how,
    )


@pytest.mark.parametrize("how", ["r", "r+", "c"])
def test_mapped_twice_and_mounted_over(btrfs, how):
    """The same where the path leads to the snapshot by then."""
    btrfs(
        """
live = [open_map("live/data") for _ in range(2)]
snap = [open_map("snap/data") for _ in range(2)]
for array in live + snap:
    look(array)
subprocess.run(["mount", "--bind", "snap", "live"], check=True)
for array in live:
    arrives(array, 1)
""",
        how,
    )


def test_overlay_mapped_twice(overlay):
    """Two maps to write through go by reference all the same, and are written to."""
    overlay(
        """
first, second = open_map("merged/data"), open_map("merged/data")
assert look(first) == look(second) == (1, 1)
assert arrives(first, 1)["by_reference"] and arrives(second, 1)["by_reference"]
tasks = [delayed(np.ndarray.fill)(first, 5)]
Parallel(n_jobs=2, backend=backend, max_nbytes=None)(tasks)
assert look(second) == (5, 5)
""",
        "r+",
    )
