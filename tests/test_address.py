"""Which file is mapped at an address? The ioctl, the text, and neither."""

import ctypes
import mmap
import os
import shutil
import subprocess
import sys
import tempfile

import numpy as np
import pytest
import samemap
from samemap import _core
from support import machine
from support.foreign import MAP_FIXED, Owner, array_at, libc, map_at
from support.scripts import mounted, run_script

PAGE = mmap.PAGESIZE


@pytest.fixture
def path(raw_file):
    return raw_file(np.arange(8 * PAGE // 8, dtype=np.int64))


def arrives(array):
    """By reference, and with the right values in a process of its own."""
    assert samemap.explain(array)["by_reference"]
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys, pickle, numpy as np\n"
            "a = pickle.load(sys.stdin.buffer)\n"
            "sys.stdout.buffer.write(np.ascontiguousarray(a).tobytes())",
        ],
        input=samemap.dumps(array),
        capture_output=True,
        timeout=60,
        check=True,
    )
    assert done.stdout == array.tobytes()


def test_owners(map_table, path):
    """np.memmap, mmap.mmap, a memoryview, as_strided and ctypes memory."""
    with path.open("r+b") as file:
        whole = mmap.mmap(file.fileno(), 0)
    on_mmap = np.frombuffer(whole, np.int64)
    for array in (
        np.memmap(path, np.int64, "r"),
        on_mmap,
        np.frombuffer(memoryview(whole)[PAGE:], np.int64)[::-1],
        np.ndarray((10, 4), np.int16, whole, 6, (100, 2)),
        np.lib.stride_tricks.as_strided(on_mmap[9:], (3, 4), (-16, 8)),
        np.asarray(memoryview(on_mmap)[::2]),
        array_at(map_at(path, 8 * PAGE), 8 * PAGE)[5::-2],
    ):
        arrives(array)


def test_offset_and_tail(map_table, path):
    """A map from the middle of the file to a page that the file fills partly."""
    os.truncate(path, 7 * PAGE + 104)
    array = array_at(map_at(path, 4 * PAGE, 4 * PAGE), 3 * PAGE + 104)
    told = samemap.explain(array)
    assert (told["map_offset"], told["map_length"]) == (4 * PAGE, 3 * PAGE + 104)
    arrives(array)


def test_several_entries(map_table, path):
    """One mapping that mprotect has cut in three: still one range, read-only."""
    address = map_at(path, 6 * PAGE, prot=mmap.PROT_READ | mmap.PROT_WRITE)
    libc.mprotect(address + 2 * PAGE, PAGE, mmap.PROT_READ)
    array = array_at(address, 6 * PAGE)
    assert samemap.explain(array)["map_writable"] is False
    arrives(array)
    assert samemap.explain(array_at(address, 2 * PAGE))["map_writable"] is True


@pytest.mark.parametrize("second", ["elsewhere", "other file", "private", "anonymous"])
def test_range_that_leaves_the_file(map_table, path, second):
    """Neighbours that don't continue the file: by value, with the right bytes."""
    address = map_at(path, 4 * PAGE)
    if second == "elsewhere":
        map_at(path, 2 * PAGE, 0, address + 2 * PAGE)
    elif second == "other file":
        other = path.with_name("other")
        other.write_bytes(b"\7" * 4 * PAGE)
        map_at(other, 2 * PAGE, 2 * PAGE, address + 2 * PAGE)
    elif second == "private":
        rest = address + 2 * PAGE
        map_at(path, 2 * PAGE, 2 * PAGE, rest, flags=mmap.MAP_PRIVATE)
    else:
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_FIXED
        libc.mmap(address + 2 * PAGE, 2 * PAGE, mmap.PROT_READ, flags, -1, 0)
    array = array_at(address, 4 * PAGE)
    assert not samemap.explain(array)["by_reference"]
    np.testing.assert_array_equal(samemap.loads(samemap.dumps(array)), array)
    arrives(array_at(address, 2 * PAGE))


@pytest.mark.parametrize("pages", [slice(0, 1), slice(1, 2), slice(0, 4)])
def test_unreadable_pages(map_table, path, pages):
    """Memory that may not be read here is not given to others to read."""
    address = map_at(path, 4 * PAGE)
    start = address + pages.start * PAGE
    libc.mprotect(start, (pages.stop - pages.start) * PAGE, 0)
    array = array_at(address, 4 * PAGE)
    assert _core.describe(array)["reason"] == "memory"
    with pytest.raises(samemap.BackingError):
        samemap.dumps(array)


def test_many_entries(map_table, tmp_path):
    """A map of a thousand entries, in a table of more than 64 kB."""
    pages = 1000
    path = tmp_path / "many"
    np.arange(pages * PAGE // 8, dtype=np.int64).tofile(path)
    address = map_at(path, pages * PAGE, prot=mmap.PROT_READ | mmap.PROT_WRITE)
    for i in range(0, pages, 2):
        assert libc.mprotect(address + i * PAGE, PAGE, mmap.PROT_READ) == 0
    array = array_at(address, pages * PAGE)
    told = samemap.explain(array)
    assert (told["by_reference"], told["map_writable"]) == (True, False)
    assert told["map_length"] == pages * PAGE
    last = array_at(address + (pages - 1) * PAGE, PAGE)
    assert samemap.explain(last)["map_writable"]
    libc.munmap(ctypes.c_void_p(address), ctypes.c_size_t(pages * PAGE))


def test_memory_of_nobody(map_table, path):
    """A memoryview made in C has no object behind it."""
    view = ctypes.pythonapi.PyMemoryView_FromMemory
    view.restype = ctypes.py_object
    view.argtypes = [ctypes.c_void_p, ctypes.c_ssize_t, ctypes.c_int]
    memory = view(map_at(path, 8 * PAGE), 8 * PAGE, 0x100)  # PyBUF_READ
    array = np.frombuffer(memory, np.int64)
    assert memory.obj is None
    arrives(array[::-1])
    first, second = both_read(samemap.dumps(array))
    assert np.shares_memory(first, second)
    assert not np.shares_memory(first, array)


def both_read(message):
    """Read a message twice: what is read-only, or shared, is one map for both."""
    return samemap.loads(message), samemap.loads(message)


def test_mapped_anew(map_table, path):
    """The memory of an unknown owner that shows another file now."""
    other = path.with_name("other")
    np.full(PAGE // 8, 7, np.int64).tofile(other)
    address = map_at(path, PAGE)
    array = array_at(address, PAGE)
    assert samemap.explain(array)["path"] == str(path)
    map_at(other, PAGE, 0, address)
    assert samemap.explain(array)["path"] == str(other)
    arrives(array)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"offset": 2 * PAGE}, {"map_offset": 2 * PAGE}),
        ({"prot": mmap.PROT_READ | mmap.PROT_WRITE}, {"map_writable": True}),
        pytest.param(
            {"flags": mmap.MAP_PRIVATE},
            {"sharing": "private"},
            marks=pytest.mark.needs_pagemap,
        ),
    ],
)
def test_mapped_anew_otherwise(map_table, path, change, told):
    """Or the same file in another way: as it is mapped now, so it is sent."""
    address = map_at(path, PAGE)
    array = array_at(address, PAGE)
    before = samemap.explain(array)
    assert before | told != before
    map_at(path, PAGE, address=address, **change)
    now = samemap.explain(array)
    assert now | told == now
    arrives(array)
    assert np.shares_memory(*both_read(samemap.dumps(array))) == ("prot" not in change)


@pytest.mark.parametrize(
    "name", [b"name (deleted)", b"new\nline", rb"back\012slash", b"latin-\xe9", b"a b "]
)
@pytest.mark.parametrize(
    "unlinked", [False, pytest.param(True, marks=pytest.mark.needs_descriptors)]
)
def test_odd_names(map_table, tmp_path, name, unlinked):
    """The table shows names as bytes, and not all of them as they are."""
    path = os.path.join(os.fsencode(tmp_path), name)
    with open(path, "w+b") as file:
        file.write(bytes(range(200)))
        file.flush()
        whole = mmap.mmap(file.fileno(), 0)
    array = np.frombuffer(whole, np.uint8)
    if unlinked:
        os.unlink(path)
        assert samemap.explain(array)["route"] == "descriptor"
    elif map_table == "text" and rb"\012" in name:
        if not machine.DESCRIPTORS:
            pytest.skip("the name alone doesn't lead to the file")
    else:
        assert os.fsencode(samemap.explain(array)["path"]) == path
    arrives(array)


@pytest.mark.needs_descriptors
def test_deleted_name_taken_by_another(map_table, tmp_path):
    """ "x" unlinked and a real file named "x (deleted)" are not confused."""
    path = tmp_path / "x"
    array = np.memmap(path, np.uint8, "w+", shape=(100,))
    array[:] = 5
    path.unlink()
    (tmp_path / "x (deleted)").write_bytes(bytes(100))
    arrives(array)


@pytest.mark.needs_descriptors
def test_path_too_long(map_table, tmp_path, monkeypatch):
    """A file deeper than any path can tell is reached through a descriptor."""
    monkeypatch.chdir(tmp_path)
    for _ in range(20):
        os.mkdir("x" * 240)
        os.chdir("x" * 240)
    np.arange(100).tofile("file")
    with open("file", "r+b") as file:
        array = np.memmap(file, np.int64, "r+")
    monkeypatch.undo()
    arrives(array[::-1])
    shutil.rmtree(tmp_path / ("x" * 240))


def test_partly_inaccessible(map_table, path):
    """What is copied of a map that others share is read-only in this case, too."""
    array = np.memmap(path, np.int64, "r+")
    assert libc.mprotect(array.ctypes.data + 7 * PAGE, PAGE, 0) == 0
    array = array[: 7 * PAGE // 8]
    assert not samemap.explain(array)["by_reference"]
    copy = samemap.loads(samemap.dumps(array))
    np.testing.assert_array_equal(copy, array)
    assert not copy.flags.writeable


def test_overlay(map_table, tmp_path):
    """On overlayfs `stat` tells other devices than the map table."""
    source = """
        import os, sys
        import numpy as np
        from samemap import _core
        from test_address import arrives
        _core.set_map_table(sys.argv[2])
        for name, mode in [("lower", "r"), ("written", "r+"), ("new", "w+")]:
            path = f"{sys.argv[1]}/merged/{name}"
            array = np.memmap(path, np.int64, mode, shape=(1000,))
            if mode != "r":
                array[:] = np.arange(1000)
            arrives(array[::-1])
            print(os.stat(path).st_dev)
    """
    mounts = [f"cd {tmp_path}", "mkdir -p low up merged"]
    mounts += [f"mount -t tmpfs x {name}" for name in ("low", "up")]
    mounts += ["mkdir up/data up/work", "head -c 8000 /dev/urandom > low/lower"]
    mounts += ["cp low/lower low/written"]
    options = "xino=off,lowerdir=low,upperdir=up/data,workdir=up/work"
    mounts += [f"mount -t overlay x -o {options} merged"]
    prefix = mounted(" && ".join(mounts))
    devices = run_script(source, tmp_path, map_table, prefix=prefix).split()
    assert len(devices) == 3
    assert len({*devices}) == 2


def test_no_table(path):
    """Where no table exists np.memmap's attributes serve, all else is copied."""
    _core.set_map_table("none")
    try:
        array = np.memmap(path, np.int64, "r+", offset=5000 * 8 % PAGE)
        arrives(array[::-1])
        assert samemap.explain(array)["map_writable"]
        readonly = np.memmap(path, np.int64, "r")
        assert not samemap.explain(readonly)["map_writable"]
        arrives(readonly)
        with tempfile.TemporaryFile() as file:
            file.write(bytes(range(200)))
            file.flush()
            nameless = np.memmap(file, np.uint8, "r+")
        assert (nameless.filename, nameless.offset) == (None, 0)
        assert samemap.explain(nameless)["reason"] == "no map table"
        assert samemap.loads(samemap.dumps(nameless)).tolist() == nameless.tolist()
        assert not samemap.loads(samemap.dumps(nameless)).flags.writeable
        with tempfile.TemporaryFile() as file:
            file.write(bytes(200))
            file.flush()
            nameless = np.memmap(file, np.uint8, "c")
        assert samemap.explain(nameless)["reason"] == "no map table"
        assert samemap.loads(samemap.dumps(nameless)).flags.writeable
        private = np.memmap(path, np.int64, "c")
        private[3] = 99
        copy = samemap.loads(samemap.dumps(private))
        assert copy[3] == 99
        assert not np.shares_memory(copy, private)
        with path.open("r+b") as file:
            bare = np.frombuffer(mmap.mmap(file.fileno(), 0), np.int64)
        assert samemap.explain(bare)["reason"] == "no map table"
        copy = samemap.loads(samemap.dumps(bare))
        np.testing.assert_array_equal(copy, bare)
        assert copy.flags.writeable  # nobody was to see what is written there
    finally:
        _core.set_map_table("auto")


def test_no_table_and_another_file_at_the_path(path):
    """Where no table exists a path that leads to another file is not followed."""
    _core.set_map_table("none")
    try:
        array = np.memmap(path, np.int64, "r+")
        expected = np.array(array)
        other = path.with_name("other")
        (expected + 1).tofile(other)
        other.replace(path)
        assert samemap.explain(array)["reason"] == "unreachable"
        copy = samemap.loads(samemap.dumps(array))
        np.testing.assert_array_equal(copy, expected)
    finally:
        _core.set_map_table("auto")


@pytest.mark.needs_maps
def test_no_descriptor_for_the_table(path):
    """Without a descriptor left there is no table, and the map is asked for later."""
    source = """
        import os, resource, sys
        import numpy as np
        from samemap import _core

        array = np.memmap(sys.argv[1], np.int64, "r+")
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
        taken = []
        try:
            while True:
                taken.append(os.dup(0))
        except OSError:
            print(_core.describe(array)["reason"])
        for fd in taken:
            os.close(fd)
        message = _core.Outgoing()
        print(_core.describe(array)["reason"] or "none")
    """
    assert run_script(source, path) == "no map table\nnone\n"


@pytest.mark.needs_pagemap
@pytest.mark.parametrize("pages", [slice(0, 1), slice(3, 5), slice(0, 8)])
def test_private_pages(map_table, path, pages, pagemap):
    """Modified pages travel, unmodified ones are read from the file there."""
    array = np.memmap(path, np.int64, "c").reshape(8, -1)
    array[pages] += 1000
    assert samemap.explain(array)["by_reference"]
    assert len(samemap.dumps(array)) < (pages.stop - pages.start) * PAGE + 500
    assert len(samemap.dumps(array[5:])) < max(0, pages.stop - 5) * PAGE + 500
    arrives(array)
    arrives(array[:, ::-3])


@pytest.mark.needs_pagemap
def test_many_private_pages(tmp_path, pagemap):
    """More pages than the older way takes at a time, modified here and there."""
    path = tmp_path / "many"
    np.arange(1400 * PAGE // 8, dtype=np.int64).tofile(path)
    array = np.memmap(path, np.int64, "c").reshape(1400, -1)
    for pages in (slice(0, 1), slice(510, 514), slice(1399, 1400)):
        array[pages, 3] = -1
    expected = array.tolist()  # Reads the unmodified pages into memory, too.
    message = samemap.dumps(array)
    assert len(message) < 6 * PAGE + 500
    assert samemap.loads(message).tolist() == expected
    assert len(samemap.dumps(array[600:1300])) < 500


def test_unknown_pagemap():
    """The switch takes no other names."""
    with pytest.raises(ValueError, match="'entries', not 'text'"):
        _core.set_pagemap("text")


def test_same_inode_on_two_devices(tmp_path):
    """Small inode numbers are those of many file systems."""
    source = """
        import mmap, os, sys
        from pathlib import Path
        import samemap
        from support.foreign import map_at
        from support.foreign import Owner
        paths = [Path(sys.argv[1], name, "file") for name in "ab"]
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
    found = run_script(source, tmp_path, prefix=mounted(mounts))
    assert found == "2\n"


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
def test_beyond_the_end_of_the_file(make_file):
    """The rest of the last page is memory of nobody's: it goes by value."""
    path = make_file("a", 1, 100)
    array = Owner().array(map_at(path, 100), 128)
    assert samemap.explain(array)["reason"] == "outside"
    copy = samemap.loads(samemap.dumps(array))
    assert copy.tolist() == [1] * 100 + [0] * 28
