"""Memory that is a file without a name: src/os/memfile.h, through a program in C."""

import resource
import signal
from pathlib import Path

import pytest
from support import seccomp
from support.compiled import build, run
from support.scripts import mounted

MB = 1 << 20
BLOCK = 2 * MB
LARGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage")


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    files = (
        "memfile_linux.c",
        "seccomp_linux.c",
        "room_linux.c",
        "textfile.c",
        "page.c",
    )
    return build(tmp_path_factory.mktemp("memfile"), "memfile", *files)


def on_disk(path):
    """Tell whether a folder is not on tmpfs, the deepest mount being the last."""
    mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    above = [m for m in mounts if path == Path(m[1]) or Path(m[1]) in path.parents]
    return max(above, key=lambda mount: len(mount[1]))[2] != "tmpfs"


# (size of the file, offset, length): blocks and what lies around them.
RANGES = {
    "small": (4096, 0, 100),
    "one byte": (3 * BLOCK, BLOCK + 7, 1),
    "nothing": (4096, 17, 0),
    "a block": (2 * BLOCK, BLOCK, BLOCK),
    "less than a block": (4 * BLOCK, 1, 2 * BLOCK - 2),
    "blocks between edges": (11 * BLOCK, 5, 9 * BLOCK + 1000),
    "pieces": (40 * MB + 3, 0, 40 * MB + 3),
}


@pytest.mark.parametrize("name", RANGES)
def test_fill(program, name):
    """The bytes of the range are there, every other one is zero still."""
    told = run(program, "fill", *RANGES[name], "")
    assert (told["exact"], told["empty"]) == ("1", "1")


def test_nameless(program):
    """The file has no name, and a program that is executed doesn't inherit it."""
    told = run(program, "fill", 4096, 0, 4096, "")
    assert (told["links"], told["cloexec"], told["in_memory"]) == ("0", "1", "1")


@pytest.mark.needs_maps
def test_large_pages(program):
    """Whole blocks are on large pages, the map of a reader as well."""
    told = run(program, "fill", 5 * BLOCK + 100, 0, 5 * BLOCK + 100, "")
    assert told["aligned"] == "1"
    if told["refused"] == "1":
        pytest.skip("no large pages: Linux before 6.1, or memory in pieces")
    assert int(told["large"]) == 5 * BLOCK // 1024


@pytest.mark.needs_maps
@pytest.mark.parametrize("size", [100, BLOCK, 9 * BLOCK + 5])
def test_populated(program, size):
    """A new file has its large pages before anybody writes, and they are zero."""
    told = run(program, "populate", size)
    assert told["empty"] == "1"
    if told["refused"] == "1":
        pytest.skip("no large pages: Linux before 6.1, or memory in pieces")
    assert int(told["large"]) == size // BLOCK * BLOCK // 1024


@pytest.mark.parametrize("shrink", [0, 1])
def test_seal(program, shrink):
    """A sealed file keeps its size; to shrink it may be left to the receiver."""
    assert run(program, "seal", shrink) == {
        "status": 0,
        "grow": "-1",
        "shrink": "-1" if shrink else "0",
    }


@pytest.mark.parametrize("action", [seccomp.KILL, seccomp.REFUSE], ids=["kill", "no"])
def test_memfd_forbidden(program, action):
    """A filter that kills or refuses: an unnamed file in /dev/shm does as well."""
    told = run(
        program,
        *("fill", 2 * BLOCK, 3, BLOCK + 9, ""),
        preexec_fn=seccomp.forbidding("memfd_create", action),
    )
    assert told["status"] == 0
    assert (told["exact"], told["empty"]) == ("1", "1")
    assert (told["sealable"], told["links"], told["in_memory"]) == ("0", "0", "1")


@pytest.mark.parametrize("call", ["memfd_create", "userfaultfd"])
def test_calls_that_kill(program, call):
    """They are known before they are made, and others are not taken for them."""
    kill = seccomp.forbidding(call, seccomp.KILL)
    told = run(program, "allowed", preexec_fn=kill)
    assert told["status"] == 0
    assert told["memfd"] == ("0" if call == "memfd_create" else "1")
    assert told["userfaultfd"] == ("0" if call == "userfaultfd" else "1")
    refuse = seccomp.forbidding(call, seccomp.REFUSE)
    told = run(program, "allowed", preexec_fn=refuse)
    assert (told["memfd"], told["userfaultfd"]) == ("1", "1")


def test_large_pages_forbidden(program):
    """Without them the same bytes are written, page by page."""
    refuse = seccomp.forbidding("madvise", seccomp.REFUSE)
    told = run(program, "fill", 10 * BLOCK, 9, 9 * BLOCK, "", preexec_fn=refuse)
    assert (told["exact"], told["empty"]) == ("1", "1")
    assert told["refused"] == "1"


@pytest.mark.needs_maps
def test_folder_on_disk(program, tmp_path):
    """A folder that is no memory is a wish: the unnamed file is there."""
    if not on_disk(tmp_path):
        pytest.skip("temporary files are in memory here")
    told = run(program, "fill", 2 * BLOCK, 3, BLOCK + 9, tmp_path)
    if told.get("create:"):
        pytest.skip("no O_TMPFILE on this file system")
    assert (told["exact"], told["empty"]) == ("1", "1")
    assert (told["in_memory"], told["links"]) == ("0", "0")
    assert list(tmp_path.iterdir()) == []


def test_file_size_limit(program):
    """RLIMIT_FSIZE is told as room, and beyond it is an error, not a signal."""
    told = run(
        program,
        *("limited", 3 * MB + 5, 9 * MB),
        preexec_fn=lambda: signal.signal(signal.SIGXFSZ, signal.SIG_IGN),
    )
    assert told["room"] == str(3 * MB + 5)
    assert told["fill:"] == told["create:"] == "File too large"


def test_no_space(program):
    """A full file system in the middle is an error, where a store would be SIGBUS."""
    prefix = mounted("mount -t tmpfs -o size=5M,nr_inodes=99 none /dev/shm")
    refuse = seccomp.forbidding("memfd_create", seccomp.REFUSE)
    told = run(program, "fill", 9 * MB, 0, 9 * MB, "", prefix=prefix, preexec_fn=refuse)
    assert told == {"status": 1, "fill:": "No space left on device"}


def test_room_of_file_system(program):
    """What is free where the file is, and no more."""
    prefix = mounted("mount -t tmpfs -o size=5M,nr_inodes=99 none /dev/shm")
    refuse = seccomp.forbidding("memfd_create", seccomp.REFUSE)
    told = run(program, "left", "/dev/shm", prefix=prefix, preexec_fn=refuse)
    assert str(5 * MB) in told


def test_address_space_limit(program):
    """Where there are no addresses left to map a block at, the bytes are written."""
    limit = 30 * MB
    told = run(
        program,
        *("limited", 40 * MB, 24 * MB),
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (limit, limit)),
    )
    assert told["status"] == 0
    assert "filled" in told


@pytest.mark.needs_maps
def test_nothing_kept(program):
    """After a hundred files no map and no descriptor is left."""
    told = run(program, "kept", 100)
    assert told.pop("status") == 0
    assert len(told) == 1, told


MEMINFO = "MemTotal: 900 kB\nMemAvailable: 500 kB\nCommitLimit: 700 kB\n{}\n"
VERSION_1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
VERSION_2 = ("memory.max", "memory.current", "inactive_file")


def make_root(root, groups, committed=600, overcommit=0):
    """Make files as /proc and /sys have them; groups: {folder: (limit, used, file)}."""
    files = {
        "proc/meminfo": MEMINFO.format(f"Committed_AS: {committed} kB"),
        "proc/sys/vm/overcommit_memory": f"{overcommit}\n",
    }
    for folder, (names, limit, used, inactive) in groups.items():
        base = f"sys/fs/cgroup/{folder}"
        files[f"{base}/{names[0]}"] = f"{limit}\n"
        files[f"{base}/{names[1]}"] = f"{used}\n"
        files[f"{base}/memory.stat"] = f"anon 7\n{names[2]} {inactive}\n"
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


# (content of /proc/self/cgroup, groups, more, bytes that are left)
ROOMS = {
    "machine": ("0::/\n", {}, {}, 500 * 1024),
    "strict overcommitment": ("0::/\n", {}, {"overcommit": 2}, 100 * 1024),
    "no more may be committed": (
        "0::/\n",
        {},
        {"overcommit": 2, "committed": 800},
        0,
    ),
    "version 2": ("0::/a/b\n", {"a/b": (VERSION_2, 9000, 4000, 500)}, {}, 5500),
    "above it": (
        "0::/a/b\n",
        {"a/b": (VERSION_2, "max", 4000, 0), "a": (VERSION_2, 7000, 4000, 0)},
        {},
        3000,
    ),
    "a container's own": ("0::/\n", {"": (VERSION_2, 7000, 4000, 0)}, {}, 3000),
    "no limit": ("0::/a\n", {"a": (VERSION_2, "max", 4000, 0)}, {}, 500 * 1024),
    "over the limit": ("0::/a\n", {"a": (VERSION_2, 3000, 4000, 0)}, {}, 0),
    "version 1": (
        "5:cpu,cpuacct:/x\n4:hugetlb,memory:/a\n0::/\n",
        {"memory/a": (VERSION_1, 9000, 4000, 0), "x": (VERSION_2, 1, 0, 0)},
        {},
        5000,
    ),
    "version 1 in a container": (
        "4:memory:/docker/1234\n",
        {"memory": (VERSION_1, 9000, 4000, 100)},
        {},
        5100,
    ),
    "version 1 without a limit": (
        "4:memory:/a\n",
        {"memory/a": (VERSION_1, 9223372036854771712, 4000, 0)},
        {},
        500 * 1024,
    ),
}


@pytest.mark.parametrize("name", ROOMS)
def test_room(program, tmp_path, name):
    """The least of what the machine, its rules and all control groups leave."""
    cgroup, groups, more, expected = ROOMS[name]
    make_root(tmp_path, groups, **more)
    (tmp_path / "proc/self").mkdir()
    (tmp_path / "proc/self/cgroup").write_text(cgroup)
    assert run(program, "room", tmp_path) == {"status": 0, str(expected): ""}


def test_room_without_proc(program, tmp_path):
    """Where nothing is told, nothing is claimed."""
    assert str(2**63 - 1) in run(program, "room", tmp_path)
