"""What the system gives: what the C half finds, and what doctor says of it."""

import errno
import mmap
import os
import re
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from samemap import _core
from samemap._cli import doctor as command
from samemap._cli.main import main
from support import machine, seccomp
from support.compiled import build, run
from support.scripts import mounted, run_script

linux = pytest.mark.skipif(not machine.ASKS, reason="built to ask no system")


def doctor(*files, prefix=(), before=None, **environment):
    """Run the command in a process of its own; return the finished process."""
    return subprocess.run(
        [*prefix, sys.executable, "-m", "samemap", "doctor", *map(str, files)],
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=100,
        preexec_fn=before,
    )


def levels(text):
    """{name: level} of what was printed; of files, those of the last."""
    found = re.findall(r"^(ok|falls back|missing) +(\S+(?: \S+)*?)  ", text, re.M)
    return {name: level for level, name in found}


def words(text):
    return " ".join(text.split())


# What is found


def test_probe_agrees():
    """The C half finds what the tests measure in their own way."""
    facts = _core.probe()
    table = "ioctl" if machine.PROCMAP_QUERY else "text" if machine.MAPS else "none"
    assert facts["map_table"] == table
    assert facts["map_table_expected"] == machine.ASKS
    assert (facts["pagemap"] != "none") == machine.PAGEMAP
    assert facts["reachable"] == machine.DESCRIPTORS


def test_probe_follows_the_map_table(map_table):
    """The way that the library uses is the way that is told."""
    assert _core.probe()["map_table"] == map_table


def test_probe_without_map_table():
    """Where nobody tells which file is mapped, that is what is told."""
    _core.set_map_table("none")
    try:
        facts = _core.probe()
    finally:
        _core.set_map_table("auto")
    assert facts["map_table"] == "none"
    assert not facts["map_table_expected"]


@pytest.mark.needs_pagemap
def test_probe_follows_the_pagemap():
    """Entries and the scan are told apart; the scan alone never reads entries."""
    told = {}
    for source in ("auto", "scan", "entries"):
        _core.set_pagemap(source)
        try:
            told[source] = _core.probe()["pagemap"]
        finally:
            _core.set_pagemap("auto")
    assert told["entries"] == "entries"
    assert told["scan"] in ("scan", "none")
    assert told["auto"] == ("scan" if told["scan"] == "scan" else "entries")


@linux
def test_probe_tells_limits(tmp_path):
    """Limits are those of the process, and descriptors those that are open."""
    facts = _core.probe()
    assert facts["descriptors"] == resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if machine.MAPS:
        with open("/proc/sys/vm/max_map_count") as file:
            assert facts["maps"] == int(file.read())
        assert 0 < facts["memory_room"] < 1 << 50
        with (tmp_path / "file").open("w"):
            again = _core.probe()["descriptors_in_use"]
        assert again == facts["descriptors_in_use"] + 1


@linux
def test_probe_makes_memory_files():
    """A memfd where the system gives one, and large pages unless it has none."""
    facts = _core.probe()
    try:
        os.close(os.memfd_create("test"))
    except OSError:
        assert facts["memory_file"] != "memfd"
    else:
        assert facts["memory_file"] == "memfd"
        assert facts["file_room"] is None or facts["file_room"] > 0


@linux
@pytest.mark.needs_pagemap
def test_probe_watches(tmp_path):
    """Writes are watched where a program in C finds them to be."""
    files = ("writes_linux.c", "seccomp_linux.c", "textfile.c", "page.c")
    run(build(tmp_path, "writes", *files), "seen", "nothing", 0)  # skips
    assert _core.probe()["writes"] == "watched"


@linux
def test_probe_has_large_pages(tmp_path):
    """Large pages are had where a program in C gets them."""
    names = ("memfile_linux", "seccomp_linux", "room_linux", "textfile", "page")
    program = build(tmp_path, "memfile", *(f"{name}.c" for name in names))
    told = run(program, "fill", 1 << 23, 0, 1 << 23, "")
    if told["refused"] == "0":
        # Late is for memory that is in pieces now.
        assert _core.probe()["large_pages"] in ("yes", "late")
    else:
        assert _core.probe()["large_pages"] in ("no", "late")


@linux
def test_probe_with_a_driver(tmp_path):
    """Beside a library by which devices write to memory nothing is said to be seen."""
    if _core.probe()["writes"] != "watched":
        pytest.skip("nothing is watched here")
    library = tmp_path / "libcuda.so.1"
    library.write_bytes(Path(_core.__file__).read_bytes())
    printed = run_script(
        """
        import ctypes, sys
        from samemap import _core

        library = ctypes.CDLL(sys.argv[1])
        print(_core.probe()["writes"])
        """,
        library,
    )
    assert printed == "unseen\n"


def test_probe_leaves_nothing():
    """Looking costs no descriptors and no memory."""
    if not machine.MAPS:
        pytest.skip("nobody tells what is open")

    def state():
        with open("/proc/self/statm") as file:
            return len(os.listdir("/proc/self/fd")), int(file.read().split()[0])

    _core.probe(b"/tmp")
    before, rounds = state(), 200
    for _ in range(rounds):
        _core.probe(b"/tmp")
    after = state()
    assert after[0] == before[0]
    assert after[1] < before[1] + 2 * rounds  # pages


def test_probe_refuses_other_folders():
    """A folder is bytes, as the system has it."""
    with pytest.raises(TypeError):
        _core.probe("/tmp")


# What is forbidden

both = pytest.mark.parametrize(
    "action", [seccomp.KILL, seccomp.REFUSE], ids=["kill", "no"]
)


@linux
@both
def test_without_userfaultfd(action):
    """A forbidden userfaultfd is survived, and said to be a filter's doing."""
    done = doctor(before=seccomp.forbidding("userfaultfd", action))
    assert done.stderr == ""
    assert levels(done.stdout)["watched memory"] == "falls back"
    assert "seccomp forbids the call userfaultfd" in words(done.stdout)


@linux
@both
def test_without_memfd(action):
    """Without memfd there are files in /dev/shm, which is a fallback."""
    done = doctor(before=seccomp.forbidding("memfd_create", action))
    assert done.stderr == ""
    assert levels(done.stdout)["memory files"] == "falls back"
    assert "memory files are here" in words(done.stdout)
    assert done.returncode == (0 if machine.DESCRIPTORS and machine.PAGEMAP else 1)


@linux
@pytest.mark.needs_maps
def test_older_kernel():
    """Where the newer ways are unknown, the older ones are told; nothing is missing."""
    unknown = 0x00050000 | errno.ENOTTY
    done = doctor(before=seccomp.forbidding("ioctl", unknown))
    told = levels(done.stdout)
    assert told["map table"] == told["watched memory"] == "falls back"
    assert told["pagemap"] == ("falls back" if machine.PAGEMAP else "missing")
    assert "the text of /proc/self/maps is read" in words(done.stdout)


@linux
def test_without_large_pages():
    """Without MADV_COLLAPSE memory files are of small pages, and so it is said."""
    done = doctor(before=seccomp.forbidding("madvise", seccomp.REFUSE))
    assert levels(done.stdout)["2 MB pages"] == "falls back"


@linux
def test_without_memory_files():
    """Where no file may be filled, that is missing: status 1."""
    limit = resource.RLIMIT_FSIZE
    hard = resource.getrlimit(limit)[1]
    done = doctor(before=lambda: resource.setrlimit(limit, (0, hard)))
    # What is printed goes into a pipe.
    told = levels(done.stdout)
    assert told["memory files"] == "missing"
    assert told["file size"] == "falls back"
    assert "0 bytes for a memory file" in words(done.stdout)
    assert done.returncode == 1


@linux
def test_with_little_room():
    """A small limit for files is told, with what it means."""
    limit = resource.RLIMIT_FSIZE
    hard = resource.getrlimit(limit)[1]
    done = doctor(before=lambda: resource.setrlimit(limit, (5_000_000, hard)))
    told = levels(done.stdout)
    assert told["memory files"] == "ok"
    assert told["file size"] == "falls back"
    assert "5.0 MB for a memory file" in words(done.stdout)
    assert told["2 MB pages"] == "falls back"
    assert "there is no room to try" in words(done.stdout)


@linux
def test_with_few_descriptors():
    """A small limit for descriptors is told, with what to change."""
    limit = resource.RLIMIT_NOFILE
    hard = resource.getrlimit(limit)[1]
    done = doctor(before=lambda: resource.setrlimit(limit, (100, hard)))
    assert levels(done.stdout)["descriptors"] == "falls back"
    assert "100 a process" in words(done.stdout)
    assert "`ulimit -n" in words(done.stdout)


@linux
def test_not_dumpable():
    """A process that nobody may look into is told so: status 1."""
    printed = run_script(
        """
        import ctypes, sys
        from samemap._cli.main import main

        ctypes.CDLL(None).prctl(4, 0, 0, 0, 0)
        print("status", main(["doctor"]))
        """
    )
    assert levels(printed)["other processes"] == "missing"
    assert printed.endswith("Something is missing: see above.\nstatus 1\n")


def test_temporary_folder_on_disk(tmp_path):
    """A temporary folder that the user named, on a disk, is a fallback."""
    done = doctor(JOBLIB_TEMP_FOLDER=str(tmp_path))
    kind = _core.probe(os.fsencode(tmp_path))["temporary"]
    assert ("temporary files" in levels(done.stdout)) == (kind == "disk")


@linux
@pytest.mark.needs_maps
@pytest.mark.parametrize("kind", ["tmpfs", "disk"])
def test_temporary_folder_by_kind(tmp_path, kind):
    """The folder is told by its file system: one in memory is none to speak of."""
    if kind == "tmpfs":
        assert _core.probe(b"/dev/shm")["temporary"] == "memfd"
    elif command.file_system(str(tmp_path)) not in ("tmpfs", "overlay"):
        assert _core.probe(os.fsencode(tmp_path))["temporary"] == "disk"


# What is said

FULL = {
    "map_table": "ioctl",
    "map_table_expected": True,
    "pagemap": "scan",
    "writes": "watched",
    "writes_error": 0,
    "memory_file": "memfd",
    "memory_file_error": 0,
    "temporary": "memfd",
    "large_pages": "yes",
    "reachable": True,
    "memory_room": 1 << 40,
    "file_room": None,
    "maps": 65530,
    "descriptors": 1024,
    "descriptors_in_use": 5,
    "descriptors_scarce": False,
}


def test_facts_are_all_known():
    """What the tests below take for a system is what the C half tells."""
    assert FULL.keys() == _core.probe().keys()


CASES = [
    ({}, None, 0),
    ({"map_table": "text"}, "map table", 0),
    ({"map_table": "none", "map_table_expected": False}, "map table", 0),
    ({"map_table": "none"}, "map table", 1),
    ({"pagemap": "entries"}, "pagemap", 0),
    ({"pagemap": "none"}, "pagemap", 1),
    ({"writes": "unseen"}, "watched memory", 0),
    ({"writes": "none"}, "watched memory", 0),
    ({"writes": "none", "writes_error": errno.EPERM}, "watched memory", 0),
    ({"writes": "none", "writes_error": errno.ENOSYS}, "watched memory", 0),
    ({"writes": "none", "writes_error": errno.EACCES}, "watched memory", 0),
    ({"memory_file": "folder"}, "memory files", 0),
    ({"memory_file": "none", "memory_file_error": errno.ENOSYS}, "memory files", 1),
    ({"large_pages": "no"}, "2 MB pages", 0),
    ({"large_pages": "late"}, "2 MB pages", 0),
    ({"large_pages": "no room"}, "2 MB pages", 0),
    ({"reachable": False}, "other processes", 1),
    ({"memory_room": 5_000_000}, "memory", 0),
    ({"memory_room": None}, None, 0),
    ({"file_room": 5_000_000}, "file size", 0),
    ({"temporary": "disk"}, "temporary files", 0),
    ({"descriptors": 256}, "descriptors", 0),
    ({"descriptors_scarce": True}, "descriptors", 0),
    ({"descriptors": None, "descriptors_in_use": None}, None, 0),
    ({"maps": 1000}, "maps", 0),
    ({"maps": None}, None, 0),
]


@pytest.mark.parametrize(("facts", "name", "status"), CASES)
def test_words(monkeypatch, capsys, facts, name, status):
    """Each fact is one of its kind: what is wrong has words, what to do, a status."""
    monkeypatch.setattr(_core, "probe", lambda folder: {**FULL, **facts})
    assert main(["doctor"]) == status
    printed = capsys.readouterr().out
    wrong = {key: level for key, level in levels(printed).items() if level != "ok"}
    assert wrong == ({name: "missing" if status else "falls back"} if name else {})
    assert max(map(len, printed.splitlines())) <= 88
    if name and facts.get("writes") != "unseen":
        assert "-> " in printed
    last = printed.splitlines()[-1]
    assert ("missing" in last, "fallback" in last) == (
        bool(status),
        bool(name) > status,
    )


@pytest.mark.parametrize(
    ("release", "advice"),
    [
        ("6.8.0-45-generic", "Linux 6.11 or later"),
        ("5.15", "Linux 6.11 or later"),
        ("odd", "Linux 6.11 or later"),
        ("6.11.0", "a sandbox withholds it"),
        ("10.1", "a sandbox withholds it"),
    ],
)
def test_kernel_is_compared(monkeypatch, release, advice):
    """A kernel that is new enough isn't to be changed: something is in its way."""
    monkeypatch.setattr(command.platform, "release", lambda: release)
    assert advice in command._kernel((6, 11))


def test_versions():
    """What a bug report needs is at the top, and SAMEMAP=0 is not overlooked."""
    done = doctor(SAMEMAP="0")
    first, second, third, *_ = done.stdout.splitlines()
    assert re.match(r"samemap \S+, built for '\w+'; joblib \S+, NumPy \S+, ", first)
    assert sys.version.split()[0] in first
    assert os.uname().release in second
    assert os.uname().machine in second
    assert third.startswith("SAMEMAP=0 is set")


# Files


@pytest.mark.needs_maps
def test_files(tmp_path, capsys):
    """A file that workers map is told so, with its size and file system."""
    path = tmp_path / os.fsdecode(b"odd \xff.npy")
    np.save(path, np.arange(60.0))
    main(["doctor", str(path)])
    printed = capsys.readouterr().out
    assert "odd \\xff.npy" in printed
    assert f"{path.stat().st_size} bytes, on {command.file_system(path)}" in printed
    assert levels(printed)["to a worker"] == "ok"
    assert "by reference: the worker opens the path" in words(printed)


def test_files_that_are_none(tmp_path):
    """What can't be mapped is one line each, status 2; the others are looked at."""
    good, empty = tmp_path / "good", tmp_path / "empty"
    good.write_bytes(b"some bytes")
    empty.touch()
    os.mkfifo(tmp_path / "fifo")
    bad = [tmp_path / "not there", empty, tmp_path, tmp_path / "fifo"]
    done = doctor(*bad, good)
    assert done.returncode == 2
    lines = done.stderr.splitlines()
    assert len(lines) == len(bad)
    for path, line in zip(bad, lines, strict=True):
        assert line.startswith(f"python -m samemap doctor: {path}: ")
    assert f"\n{good}\n" in done.stdout


@linux
def test_without_proc(tmp_path):
    """Without /proc maps are copied: status 1. A large file isn't read to say so."""
    path = tmp_path / "large"
    with path.open("wb") as file:
        file.truncate(1 << 40)
    done = doctor(path, prefix=mounted("mount -t tmpfs none /proc"))
    assert (done.returncode, done.stderr) == (1, "")
    told = levels(done.stdout)
    for name in ("map table", "pagemap", "other processes", "to a worker"):
        assert told[name] == "missing"
    assert "copied, because the system does not tell" in words(done.stdout)
    assert "on unknown" in done.stdout


@linux
@pytest.mark.needs_maps
def test_file_system(tmp_path):
    """The file system is that of the last mount at the longest place."""
    folder, beside = tmp_path / "a b", tmp_path / "a bc"
    folder.mkdir()
    prefix = mounted(
        f'mount -t tmpfs none "{tmp_path}" && mkdir "{folder}" "{beside}" && '
        f'mount -t tmpfs none "{folder}" && mount -t ramfs none "{folder}" && '
        f'echo data > "{folder}/file" && echo of others > "{beside}/file"'
    )
    done = doctor(folder / "file", beside / "file", prefix=prefix)
    assert "5 bytes, on ramfs" in words(done.stdout)
    assert "10 bytes, on tmpfs" in words(done.stdout)
    assert command.file_system("/proc/self/status") == "proc"


@linux
@pytest.mark.needs_maps
def test_overlay(tmp_path):
    """Of an overlay it is said that numbers prove nothing."""
    places = [tmp_path / name for name in ("lower", "upper", "work", "all")]
    mkdir = "mkdir " + " ".join(f'"{place}"' for place in places)
    lower, upper, work, over = places
    prefix = mounted(
        f'mount -t tmpfs none "{tmp_path}" && {mkdir} && echo data > "{lower}/file" && '
        f"mount -t overlay -o lowerdir={lower},upperdir={upper},workdir={work} "
        f'none "{over}"'
    )
    done = doctor(over / "file", prefix=prefix)
    assert "on overlay" in words(done.stdout)
    assert "different files can have the same numbers" in words(done.stdout)
    assert "to a worker" in levels(done.stdout)


@pytest.mark.parametrize(
    ("system", "is_network"),
    [("nfs", 1), ("nfs4", 1), ("cifs", 1), ("fuse.sshfs", 1), ("ext4", 0), ("xfs", 0)],
)
def test_network(monkeypatch, tmp_path, capsys, system, is_network):
    """Of a network's file system it is said that workers elsewhere see other pages."""
    path = tmp_path / "file"
    path.write_bytes(bytes(mmap.PAGESIZE))
    monkeypatch.setattr(command, "file_system", lambda path: system)
    main(["doctor", str(path)])
    assert ("a network's" in capsys.readouterr().out) == bool(is_network)
