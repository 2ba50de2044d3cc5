"""A reference to a mapping, as its reader takes it: nothing in it is trusted."""

import ctypes
import errno
import mmap
import os
import resource
from pathlib import Path

import numpy as np
import pytest
import samemap
from samemap import _core
from samemap._errors import MessageVersionError
from support import encoding
from support.encoding import ALONE, OWN, WRITEABLE, encode
from support.foreign import Owner, libc, map_at
from support.references import (
    ELSEWHERE,
    NOBODY,
    PRIVATE,
    WRITABLE,
    attach,
    elsewhere,
    reference,
)
from support.scripts import mounted, run_script

pytestmark = pytest.mark.needs_maps

PAGE = mmap.PAGESIZE


@pytest.fixture
def path(raw_file):
    return raw_file(np.arange(4 * PAGE // 8, dtype=np.int64))


@pytest.fixture
def array(path):
    return np.memmap(path, np.int64, "r+")


@pytest.mark.parametrize(
    "damage",
    [
        {"token": b"short"},
        {"path": b""},
        {"path": b"/etc\0/passwd"},
        {"identity": b"short"},
        {"offset": -PAGE},
        {"offset": 8},
        {"offset": 1 << 64},
        {"length": 0},
        {"length": -8},
        {"length": 1 << 64},
        {"offset": (1 << 63) - PAGE, "length": 2 * PAGE},
        {"access": -1},
        {"access": 4},
        {"access": 6},
        {"access": 8},
        {"access": 9},
        {"access": 10},
        {"access": 13},
        {"access": 15},
        {"access": 16},
        {"access": 1 << 70},
        {"pid": 0},
        {"pid": -1},
    ],
)
def test_damaged(array, damage):
    """Numbers that no sender writes are refused before any file is opened."""
    good = reference(array)
    with pytest.raises(ValueError, match="damaged"):
        elsewhere(good, **damage)
    assert elsewhere(good)[:8] == bytes(8)


@pytest.mark.parametrize(
    "damage", [{"token": "text"}, {"path": "text"}, {"identity": "text"}]
)
def test_other_types(array, damage):
    """What isn't bytes is refused."""
    with pytest.raises(TypeError, match="must be bytes"):
        elsewhere(reference(array), **damage)


@pytest.mark.parametrize(
    "others",
    [
        {"length": PAGE},
        {"offset": PAGE, "length": 3 * PAGE},
        {"access": WRITABLE | PRIVATE},
    ],
)
def test_known_map_of_other_numbers(array, others):
    """The token alone is no proof: range and sharing must be the same."""
    good = reference(array)
    known = attach(good)
    assert attach(good) is known is not array.base
    found = attach(good, **others)
    assert found is not known
    arguments = {**good, **others}
    end = arguments["offset"] + arguments["length"]
    assert found[:] == array.base[arguments["offset"] : end]
    found[8:16] = bytes(8)
    private = "access" in others
    assert (array.base[arguments["offset"] + 8] == 0) == (not private)


def test_two_maps_of_a_token(array):
    """When one of them goes, the other is still found."""
    good = reference(array)
    whole = attach(good)
    part = attach(good, length=PAGE)
    del whole
    assert attach(good, length=PAGE) is part
    del array
    assert attach(good, length=PAGE) is part


def test_callers_own_map(array):
    """A message that is read where it was written is not on the caller's own map."""
    good = reference(array)
    copy = attach(good)
    array._mmap.close()
    assert copy[8:16] == (1).to_bytes(8, "little")


@pytest.mark.parametrize("version", [1, 2, 4, 0, -1, 1 << 70, "2", None, True])
def test_version(array, version):
    """A message of another version is its own error, and names both."""
    with pytest.raises(MessageVersionError, match=rf"version {version!r}.*version 3"):
        attach(reference(array), version=version)
    with pytest.raises(MessageVersionError, match="version None"):
        _core.attach()


def test_nothing_is_opened_before(array):
    """A reference alone opens nothing: views do, and those that lie do not."""
    good = reference(array)
    source = _core.attach(*{**good, "token": ELSEWHERE, "pid": NOBODY}.values())
    os.unlink(array.filename)
    outside = encode("u1", (good["length"] + 1,))
    with pytest.raises(ValueError, match="outside"):
        _core.rebuild(source, outside)
    for kind in (0, OWN, encoding.PRIVATE, encoding.PRIVATE | ALONE):
        with pytest.raises(samemap.BackingNotFoundError):
            _core.rebuild(source, encode("u1", (5,), flags=WRITEABLE | kind))


def test_known_map_of_another_file(array, path):
    """Nor is it one of the file."""
    good = reference(array)
    other = path.with_name("other")
    other.write_bytes(bytes(4 * PAGE))
    theirs = reference(np.memmap(other, np.int64, "r+"))
    identity = {"identity": theirs["identity"], "path": theirs["path"]}
    assert attach(good, **identity)[8:16] == bytes(8)


@pytest.mark.parametrize("position", [0, 8, 16, 24])
def test_identity(array, position):
    """Device, inode and both parts of the birth time are compared."""
    good = reference(array)
    identity = bytearray(good["identity"])
    identity[position] ^= 1
    with pytest.raises(samemap.BackingReplacedError) as caught:
        elsewhere(good, identity=bytes(identity))
    assert caught.value.path == str(array.filename)
    assert caught.value.expected != caught.value.found


def test_path_through_a_file(array):
    """A folder that is a file now: gone, as with any other path to nowhere."""
    with pytest.raises(samemap.BackingNotFoundError) as caught:
        elsewhere(reference(array), path=os.fsencode(array.filename) + b"/file")
    assert caught.value.errno == errno.ENOTDIR


@pytest.mark.parametrize("way", [b"/gone", b"/dev/null/file", b"/dev/null", b"/"])
def test_through_the_sender(array, way):
    """Wherever the path leads by now, the sender's descriptor is on the file."""
    found = elsewhere(reference(array), path=way, pid=os.getpid())
    assert found is not array.base
    found[8:16] = bytes([255] * 8)
    assert array[1] == -1


def test_other_things_are_not_opened(array, tmp_path):
    """What isn't a regular file isn't even opened: that alone may do something."""
    libc.inotify_add_watch.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_uint32]
    in_open = 0x20
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    events = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
    assert libc.inotify_add_watch(events, os.fsencode(fifo), in_open) >= 0
    try:
        with pytest.raises(samemap.BackingReplacedError) as caught:
            elsewhere(reference(array), path=os.fsencode(fifo))
        assert caught.value.found == "not a regular file"
        with pytest.raises(BlockingIOError):
            os.read(events, 1000)
    finally:
        os.close(events)


def test_read_only_file_system(tmp_path):
    """A file system that can't be written any more: the typed error says so."""
    source = """
        import os, subprocess, sys
        import numpy as np
        import samemap
        from support.references import attach, reference
        path = sys.argv[1] + "/data"
        array = np.memmap(path, np.float64, "w+", shape=(100,))
        arguments = reference(array)
        del array
        subprocess.run(["mount", "-o", "remount,ro", sys.argv[1]], check=True)
        try:
            attach(arguments)
        except samemap.BackingPermissionError as error:
            print(error.errno == 30, error.path == path)
    """
    prefix = mounted(f"mount -t tmpfs x {tmp_path}")
    assert run_script(source, tmp_path, prefix=prefix) == "True True\n"


def test_closed_map(array):
    """A map that the user has closed is not given to anybody."""
    message = samemap.dumps(array)
    expected = array.tolist()
    closed = array._mmap
    closed.close()
    copy = samemap.loads(message)
    assert copy.base is not closed
    assert copy.tolist() == expected


@pytest.mark.parametrize("flags", [0, OWN, encoding.PRIVATE])
def test_closed_while_the_message_is_read(array, flags):
    """What loads first may close its map: the next view of the message gets another."""
    source = _core.attach(*{**reference(array), "token": ELSEWHERE}.values())
    layout = encode("i8", array.shape, flags=flags)
    first = _core.rebuild(source, layout).base
    assert _core.rebuild(source, layout).base is first
    first.close()
    second = _core.rebuild(source, layout)
    assert second.base is not first
    assert second.tolist() == array.tolist()


def test_map_moved_since(array, path):
    """A map that was resized after the pickling isn't what the message names."""
    message = samemap.dumps(array)
    expected = array.tolist()
    array._mmap.resize(PAGE)
    os.truncate(path, 4 * PAGE)
    copy = samemap.loads(message)
    assert copy.base is not array._mmap
    assert copy[: PAGE // 8].tolist() == expected[: PAGE // 8]


def test_mapped_anew_since(path):
    """Another file at the address, after the pickling, isn't what was named."""
    owner = Owner()
    address = map_at(path, PAGE)
    array = owner.array(address, PAGE)
    message = samemap.dumps(array)
    other = path.with_name("other")
    other.write_bytes(b"\7" * PAGE)
    map_at(other, PAGE, address=address)
    assert array[0] == 7
    assert samemap.loads(message)[:9].tolist() == [0] * 8 + [1]


@pytest.mark.needs_pagemap
def test_private_maps_are_never_merged(path):
    """Each message with a private map gets pages of its own."""
    array = np.memmap(path, np.int64, "c")
    arguments = reference(array)
    first, second = elsewhere(arguments), elsewhere(arguments)
    first[:8] = bytes([255] * 8)
    assert second[:8] == bytes(8)
    for function in (attach, elsewhere):
        shared = function(arguments, access=WRITABLE)
        shared[:8] = function.__name__[:8].encode().ljust(8)
        assert path.read_bytes()[:8] == shared[:8]


MEANWHILE = """
import mmap, os, sys
from pathlib import Path

meanwhile = None

class Map(mmap.mmap):
    # What happens between the look at the file and its mapping.
    def __new__(cls, *args, **kwargs):
        global meanwhile
        function, meanwhile = meanwhile, None
        if function is not None:
            function()
        return super().__new__(cls, *args, **kwargs)

mmap.mmap = Map
import numpy as np
import samemap
from samemap import _core
from support.references import elsewhere, reference

path = Path(sys.argv[1])
array = np.memmap(path, np.float64, "w+", shape=(10_000,))
arguments = reference(array)
"""


def test_truncated_meanwhile(tmp_path):
    """A file that is cut just before it is mapped is the same typed error."""
    source = """
meanwhile = lambda: os.truncate(path, 100)
try:
    elsewhere(arguments)
except samemap.BackingTruncatedError as error:
    print(error.expected, error.found, error.path == str(path), sep=", ")
"""
    found = run_script(MEANWHILE + source, tmp_path / "data")
    assert found == "at least 80000 bytes, 100 bytes, True\n"


def test_mapped_meanwhile(tmp_path):
    """Two threads that read the same message at once get the same map."""
    source = """
found = []
meanwhile = lambda: found.append(elsewhere(arguments))
found.append(elsewhere(arguments))
first, second = found
print(first is second, _core.known())
"""
    assert run_script(MEANWHILE + source, tmp_path / "data") == "True 2\n"


def test_no_memory_for_the_map(tmp_path):
    """Where the system refuses to map, its own error number says why."""
    array = np.memmap(tmp_path / "large", np.uint8, "w+", shape=(1 << 32,))
    arguments = reference(array)
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * PAGE + (1 << 31), hard))
    try:
        with pytest.raises(samemap.BackingError) as caught:
            elsewhere(arguments)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
    assert type(caught.value) is samemap.BackingError
    assert caught.value.errno == errno.ENOMEM
    assert caught.value.found == os.strerror(errno.ENOMEM)
    assert caught.value.path == str(tmp_path / "large")
