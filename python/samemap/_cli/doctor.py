"""``python -m samemap doctor``: what does this system give, and what is missing?

The facts are of the C half, which looks by the code that the library uses: here they
are put into words. Bug reports begin with this page.
"""

import argparse
import errno
import importlib.util
import os
import platform
import re
import shutil
import sys
import textwrap
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import joblib
import numpy as np

from .. import __version__, _core, explain
from .datafile import InputError, open_data

if TYPE_CHECKING:
    from argparse import _SubParsersAction

Facts = dict[str, Any]

OK, FALLBACK, MISSING = "ok", "falls back", "missing"

WIDTH = 88
NAME_WIDTH = 17
INDENT = " " * (len(FALLBACK) + 2)

# Less room than this is worth a word, and fewer descriptors and maps than systems give
# by default.
SMALL_ROOM = 256 << 20
FEW_DESCRIPTORS = 1024
FEW_MAPS = 65530

# What explains a file is so much of it: what goes by value is written once for that.
EXPLAINED = 1 << 20

NETWORK = re.compile(
    r"nfs\d?|cifs|smb3?|smbfs|9p|afs|ceph|lustre|beegfs|gpfs|glusterfs|ocfs2|gfs2|"
    r"fuse\.(sshfs|glusterfs|ceph|s3fs|rclone|juicefs|gcsfuse)"
)


class Finding(NamedTuple):
    """One thing that the system gives, or does not."""

    level: str
    name: str
    what: str
    change: str = ""

    def __str__(self) -> str:
        text = f"{self.level:<{len(INDENT)}}{self.name:<{NAME_WIDTH}}{self.what}"
        lines = _wrapped(text)
        if self.change:
            lines += _wrapped(" " * (len(INDENT) + NAME_WIDTH) + f"-> {self.change}")
        return "\n".join(lines)


def _wrapped(text: str) -> list[str]:
    indent = " " * (len(INDENT) + NAME_WIDTH)
    return textwrap.wrap(
        text,
        WIDTH,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )


def add_command(commands: "_SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add ``doctor`` to the command line."""
    parser = commands.add_parser(
        "doctor",
        help="say what this system gives, for you and for bug reports",
        description="Say what this system gives samemap: what works at full speed, "
        "what falls back to what, what is missing, and what to change. Of each file: "
        "would workers map it? Exit status: 0 all works, if some of it by a fallback, "
        "1 something is missing, 2 a file can't be mapped at all.",
    )
    parser.add_argument("files", metavar="FILE", nargs="*", help="any file with data")
    parser.set_defaults(function=_main)


def _main(options: argparse.Namespace) -> int:
    return doctor(options.files)


def doctor(files: list[str]) -> int:
    """Print what the system gives, and what becomes of these files.

    Parameters
    ----------
    files : list of str
        Paths. The files are opened read-only and hardly read.

    Returns
    -------
    int
        2 if a file can't be mapped, else 1 if something is missing, else 0.
    """
    temporary = os.environ.get("JOBLIB_TEMP_FOLDER", "")
    facts = _core.probe(os.fsencode(temporary))
    _print(_versions())
    findings = list(_findings(facts, temporary))
    for finding in findings:
        _print(str(finding))
    failed = False
    for path in files:
        try:
            about = list(_about_file(path))
        except InputError as error:
            failed = True
            print(f"python -m samemap doctor: {error}", file=sys.stderr)
            continue
        _print(f"\n{path}")
        for finding in about:
            _print(str(finding))
        findings += about
    missing = any(finding.level == MISSING for finding in findings)
    falls = any(finding.level == FALLBACK for finding in findings)
    summary = (
        "Something is missing: see above."
        if missing
        else "All works, some of it by a fallback."
        if falls
        else "All works at full speed."
    )
    _print(f"\n{summary}")
    return 2 if failed else 1 if missing else 0


def _print(text: str) -> None:
    # The bytes of a file name need not be text.
    print(os.fsencode(text).decode(errors="backslashreplace"))


def _versions() -> str:
    lines = [
        f"samemap {__version__}, built for {_core.SYSTEM!r}; joblib "
        f"{joblib.__version__}, NumPy {np.__version__}, "
        f"{platform.python_implementation()} {platform.python_version()}",
        f"{platform.system()} {platform.release()}, {platform.machine()}, "
        f"{' '.join(platform.libc_ver()) or 'unknown libc'}",
    ]
    if os.environ.get("SAMEMAP") == "0":
        lines.append("SAMEMAP=0 is set: joblib goes its own way")
    return "\n".join([*lines, ""])


# ---- The system --------------------------------------------------------------


def _findings(facts: Facts, temporary: str) -> Iterator[Finding]:
    yield _map_table(facts)
    yield _pagemap(facts)
    yield _memory_files(facts)
    if facts["memory_file"] != "none":
        yield _large_pages(facts)
        yield _writes(facts)
    yield _descriptors_of_others(facts)
    yield _memory(facts)
    yield _file_size(facts)
    if facts["temporary"] == "disk":
        yield Finding(
            FALLBACK,
            "temporary files",
            f"JOBLIB_TEMP_FOLDER, {temporary}, is on a disk: large arguments are "
            "written there",
            "unset it, or name a folder in /dev/shm",
        )
    if os.path.isdir("/dev/shm"):
        yield _shm(facts)
    yield _descriptors(facts)
    yield _maps(facts)
    if importlib.util.find_spec("distributed") is not None:
        yield _dask()


def _kernel(version: tuple[int, int]) -> str:
    """Say what to do for something that Linux has had since `version`."""
    match = re.match(r"(\d+)\.(\d+)", platform.release())
    name = f"Linux {version[0]}.{version[1]}"
    if match is None or (int(match[1]), int(match[2])) < version:
        return f"{name} or later"
    return (
        f"this kernel is later than {name}, which has it: a sandbox withholds it "
        "(seccomp, gVisor), or the kernel was built without"
    )


def _map_table(facts: Facts) -> Finding:
    name, source = "map table", facts["map_table"]
    if source == "ioctl":
        what = "PROCMAP_QUERY tells which file an array is mapped from"
        return Finding(OK, name, what)
    if source == "text":
        return Finding(
            FALLBACK,
            name,
            "the text of /proc/self/maps is read as a whole for each new array: slower "
            "in processes with many maps",
            _kernel((6, 11)),
        )
    if not facts["map_table_expected"]:
        return Finding(
            FALLBACK,
            name,
            "samemap was built without one: the attributes of np.memmap stand in, "
            "arrays on other maps are copied",
            "use Linux",
        )
    return Finding(
        MISSING,
        name,
        "nobody tells which file is mapped: arrays on mapped files are copied",
        "mount /proc, and allow /proc/self/maps to be read",
    )


def _pagemap(facts: Facts) -> Finding:
    name, source = "pagemap", facts["pagemap"]
    if source == "scan":
        what = "PAGEMAP_SCAN finds what was modified of private maps"
        return Finding(OK, name, what)
    if source == "entries":
        what = "private maps are looked at page by page: slower for large ones"
        return Finding(FALLBACK, name, what, _kernel((6, 7)))
    return Finding(
        MISSING,
        name,
        "nobody tells what was modified of private maps (np.memmap of mode c, most "
        "FITS and NIfTI files): they are copied",
        "allow /proc/self/pagemap to be read: mount /proc, keep the process dumpable"
        if _core.SYSTEM == "linux"
        else "use Linux",
    )


def _writes(facts: Facts) -> Finding:
    name = "watched memory"
    if facts["writes"] == "watched":
        what = "userfaultfd tells whether large arguments were written to since"
        return Finding(OK, name, what)
    what = "large arguments in memory are compared with what was sent, each time"
    if facts["writes"] == "unseen":
        return Finding(
            FALLBACK,
            name,
            f"{what}: a graphics or RDMA library is loaded, or pages are pinned, and "
            "devices write unseen",
        )
    error = facts["writes_error"]
    if error == errno.EPERM:
        what += "; seccomp forbids the call userfaultfd, as Docker's default does"
        change = "allow userfaultfd in the container's seccomp profile"
    elif error in (errno.ENOSYS, errno.EINVAL):
        what += "; the kernel has no asynchronous write protection (userfaultfd)"
        change = _kernel((6, 7))
    elif error:
        what += f"; userfaultfd or /proc/self/pagemap: {os.strerror(error)}"
        change = "allow both to be used"
    else:
        what += "; what userfaultfd tells is not so"
        change = "please report this"
    return Finding(FALLBACK, name, what, change)


def _memory_files(facts: Facts) -> Finding:
    name, kind = "memory files", facts["memory_file"]
    if kind == "memfd":
        return Finding(OK, name, "memfd, without a name and a limit of its own")
    if kind != "none":
        return Finding(
            FALLBACK,
            name,
            "memfd is forbidden: large arguments and samemap.zeros are nameless files "
            "in /dev/shm, as far as that has room; large results go through a pipe",
            "allow memfd_create in the sandbox (seccomp)",
        )
    reason = os.strerror(facts["memory_file_error"])
    return Finding(
        MISSING,
        name,
        f"no memfd, and no file in /dev/shm ({reason}): samemap.empty, zeros and share "
        "fail, large arguments and results go joblib's way",
        "allow memfd_create, or mount /dev/shm; see the limits below"
        if _core.SYSTEM == "linux"
        else "use Linux",
    )


def _large_pages(facts: Facts) -> Finding:
    name, found = "2 MB pages", facts["large_pages"]
    if found == "yes":
        return Finding(OK, name, "MADV_COLLAPSE makes them for memory files")
    what = "memory files are made of 4 KB pages, which takes several times as long"
    if found == "late":
        return Finding(
            FALLBACK,
            name,
            f"{what}: large ones could not be had, or not soon enough, just now",
            "memory in pieces: `echo 1 > /proc/sys/vm/compact_memory`; a sandbox may "
            "forbid madvise",
        )
    if found == "no room":
        return Finding(FALLBACK, name, f"{what}: there is no room to try", "see below")
    return Finding(FALLBACK, name, what, _kernel((6, 1)))


def _descriptors_of_others(facts: Facts) -> Finding:
    name = "other processes"
    if facts["reachable"]:
        return Finding(OK, name, "they can open this one's files by /proc/PID/fd")
    return Finding(
        MISSING,
        name,
        "they can't open this one's files by /proc/PID/fd: memory files don't reach "
        "them, and mapped files without a path are copied",
        "mount /proc; start Python from a file that its user may read, without "
        "set-uid or capabilities, so that it is dumpable"
        if _core.SYSTEM == "linux"
        else "use Linux",
    )


# ---- Room --------------------------------------------------------------------


def _in_words(nbytes: int) -> str:
    for unit, size in (("GB", 10**9), ("MB", 10**6), ("KB", 10**3)):
        if nbytes >= size:
            return f"{nbytes / size:.1f} {unit}"
    return f"{nbytes} bytes"


def _room(name: str, room: int | None, what: str, change: str) -> Finding:
    if room is None:
        return Finding(OK, name, "no limit known")
    text = f"{_in_words(room)}{what}"
    if room >= SMALL_ROOM:
        return Finding(OK, name, text)
    return Finding(
        FALLBACK, name, f"{text}: larger arrays go joblib's way, or fail", change
    )


def _memory(facts: Facts) -> Finding:
    return _room(
        "memory",
        facts["memory_room"],
        " left, in the machine and its control groups",
        "give the container or job more memory",
    )


def _file_size(facts: Facts) -> Finding:
    what = " for a memory file (RLIMIT_FSIZE" + (
        ")" if facts["memory_file"] == "memfd" else ", /dev/shm)"
    )
    room = facts["file_room"]
    if facts["memory_file_error"] == errno.EFBIG:
        room = 0
    return _room("file size", room, what, "`ulimit -f unlimited`; docker --shm-size")


def _shm(facts: Facts) -> Finding:
    try:
        usage = shutil.disk_usage("/dev/shm")
    except OSError as error:
        return Finding(OK, "/dev/shm", f"can't be looked at: {error.strerror}")
    what = f"{_in_words(usage.free)} free of {_in_words(usage.total)}"
    use = {"memfd": "; samemap doesn't need it", "folder": "; memory files are here"}
    return Finding(OK, "/dev/shm", what + use.get(facts["memory_file"], ""))


def _descriptors(facts: Facts) -> Finding:
    name, limit = "descriptors", facts["descriptors"]
    if limit is None:
        return Finding(OK, name, "no limit known")
    used = facts["descriptors_in_use"]
    what = f"{limit:,} a process (RLIMIT_NOFILE)"
    what += f", {used:,} of them open" if used is not None else ""
    if limit >= FEW_DESCRIPTORS and not facts["descriptors_scarce"]:
        return Finding(OK, name, what)
    return Finding(
        FALLBACK,
        name,
        f"{what}: beyond three quarters, files without a path and large results "
        "are copied",
        f"`ulimit -n {4 * FEW_DESCRIPTORS}`",
    )


def _maps(facts: Facts) -> Finding:
    name, limit = "maps", facts["maps"]
    if limit is None:
        return Finding(OK, name, "no limit known")
    what = f"{limit:,} a process (vm.max_map_count)"
    if limit >= FEW_MAPS:
        return Finding(OK, name, what)
    return Finding(
        FALLBACK,
        name,
        f"{what}: where tasks would have more than a quarter of them, they get copies",
        f"`sysctl vm.max_map_count={FEW_MAPS}`",
    )


def _dask() -> Finding:
    return Finding(
        OK,
        "dask's workers",
        "dask counts pages of mapped files as a worker's memory: one that reads a map "
        "larger than its memory_limit is paused (distributed.worker.memory.pause), "
        "then killed (distributed.worker.memory.terminate)",
        "set both to False, or give workers more memory_limit, where maps are larger",
    )


# ---- Files -------------------------------------------------------------------


def _about_file(path: str) -> Iterator[Finding]:
    raw = {"dtype": "u1", "shape": None, "order": None, "offset": None}
    array = open_data(argparse.Namespace(file=path, **raw))
    system = file_system(path)
    yield Finding(OK, "file", f"{array.nbytes:,} bytes, on {system or 'unknown'}")
    if system in ("btrfs", "overlay"):
        yield Finding(
            OK,
            "file system",
            "different files can have the same numbers: a page in common is the proof, "
            "and what can't be proven is copied",
        )
    elif system is not None and NETWORK.fullmatch(system):
        yield Finding(
            OK,
            "file system",
            "a network's: workers on this machine see the same pages, those on "
            "another would not",
        )
    told = explain(array[:EXPLAINED])
    if told["by_reference"]:
        route = {"path": "the worker opens the path"}.get(
            told["route"], "through a descriptor of this process"
        )
        yield Finding(OK, "to a worker", f"by reference: {route}")
    else:
        yield Finding(
            MISSING,
            "to a worker",
            f"copied, because {told['why']}",
            "keep it on another file system (a volume)"
            if told["reason"] == "unproven"
            else "",
        )


def file_system(path: str) -> str | None:
    """Return the type of the file system of `path`, or None where nobody tells."""
    try:
        with open("/proc/self/mountinfo", "rb") as file:
            lines = os.fsdecode(file.read()).split("\n")
    except OSError:
        return None
    found, longest = None, -1
    real = os.path.realpath(path)
    for line in lines:
        mount, _, rest = line.partition(" - ")
        words = mount.split()
        if len(words) < 5 or not rest:
            continue
        point = re.sub(r"\\([0-7]{3})", lambda m: chr(int(m[1], 8)), words[4])
        inside = real == point or real.startswith(point.rstrip("/") + "/")
        # Of several at one place the last lies above the others.
        if inside and len(point) >= longest:
            found, longest = rest.split()[0], len(point)
    return found
