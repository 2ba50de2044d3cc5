"""Which process sees which file: where a process is, and what leads to a file there.

Two processes on one host in the same namespaces see the same files by the same paths.
Across hosts a path says nothing, and neither do size, time and inode number: copies
keep the first two, images of disks all three. There a path is the same file only where
both tables of mounts say that it leads to one network file system; what `check`
compares is more to be sure, before a byte is used.

Nothing here knows of an engine, or sends anything.
"""

from __future__ import annotations

import functools
import hashlib
import os
import re
from collections.abc import Callable
from typing import NamedTuple

from ._core import MESSAGE_VERSION
from ._errors import (
    BackingError,
    BackingNotFoundError,
    BackingPermissionError,
    BackingReplacedError,
    BackingTruncatedError,
)

_BLOCK = 4096
_BLOCKS = 8

# File systems whose source names a server or a cluster, or a share of the machine that
# all its guests are on.
_NETWORK = frozenset(
    [
        *("nfs", "nfs4", "cifs", "smb3", "smbfs", "ceph", "lustre", "beegfs", "gpfs"),
        *("9p", "virtiofs"),
    ]
)


class Mount(NamedTuple):
    """One line of a process's table of mounts."""

    point: str
    system: str
    source: str
    root: str


class Place(NamedTuple):
    """Where a process is, as it tells others.

    Parameters
    ----------
    token : bytes
        Equal for processes that see the same files by the same paths and may open the
        same of them.
    version : int
        Of the messages that it reads.
    mounts : tuple of Mount
        In the kernel's order: of two with one point the later is seen.
    """

    token: bytes
    version: int
    mounts: tuple[Mount, ...]


# Of the process that asked last: a fork may change its user before it asks.
_here: tuple[int, Place] | None = None


def here() -> Place:
    """Tell where this process is.

    Returns
    -------
    Place
        Where the system doesn't tell, one whose token nobody else has.
    """
    global _here
    if _here is None or _here[0] != os.getpid():
        _here = os.getpid(), Place(_token(), MESSAGE_VERSION, _mounts())
    return _here[1]


def _token() -> bytes:
    digest = hashlib.blake2b(digest_size=8)
    try:
        with open("/proc/sys/kernel/random/boot_id", "rb") as file:
            digest.update(file.read())
        root = os.stat("/")
        facts = [os.readlink(f"/proc/self/ns/{name}") for name in ("mnt", "pid")]
        facts += [str(root.st_dev), str(root.st_ino)]
        facts += [str(os.geteuid()), str(os.getegid()), str(sorted(os.getgroups()))]
    except OSError:
        return os.urandom(8)
    digest.update("\0".join(facts).encode())
    return digest.digest()


def _mounts() -> tuple[Mount, ...]:
    try:
        with open("/proc/self/mountinfo", "rb") as file:
            lines = os.fsdecode(file.read()).splitlines()
    except OSError:
        return ()
    return tuple(mount for mount in map(_parse, lines) if mount is not None)


def _parse(line: str) -> Mount | None:
    """Take a line of mountinfo apart (proc_pid_mountinfo(5))."""
    left, mark, right = line.partition(" - ")
    fields, about = left.split(" "), right.split(" ")
    if not mark or len(fields) < 5 or len(about) < 2:
        return None
    point, root, source = map(_unescape, (fields[4], fields[3], about[1]))
    return Mount(point, about[0], source, root)


def _unescape(text: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)


def find_mount(mounts: tuple[Mount, ...], path: str) -> Mount | None:
    """Return the mount that a path without symbolic links leads into."""
    found = None
    for mount in mounts:
        point = mount.point.rstrip("/")
        inside = path == point or path.startswith(point + "/")
        if inside and (found is None or len(mount.point) >= len(found.point)):
            found = mount
    return found


def _is_network(system: str) -> bool:
    """Tell whether a file system is one whose source means the same on all hosts.

    ``SAMEMAP_NETWORK`` names others, such as those of FUSE, which can't be known.
    """
    named = os.environ.get("SAMEMAP_NETWORK", "")
    return system in _NETWORK or system in named.replace(",", " ").split()


def is_same_network_file(mine: Place, theirs: Place, path: str) -> bool:
    """Tell whether a path leads to one file of a network file system at both places."""
    ends = []
    for place in (mine, theirs):
        mount = find_mount(place.mounts, path)
        if mount is None or not _is_network(mount.system):
            return False
        inside = path[len(mount.point.rstrip("/")) :]
        ends.append((mount.system, mount.source, mount.root.rstrip("/") + inside))
    return ends[0] == ends[1]


def sees(mine: Place, theirs: Place, path: str) -> bool:
    """Tell whether another process can be sent a path of this one's.

    Parameters
    ----------
    mine, theirs : Place
    path : str
        Absolute, without symbolic links.

    Returns
    -------
    bool
        Never True on a guess.
    """
    if theirs.version != mine.version:
        return False
    return mine.token == theirs.token or is_same_network_file(mine, theirs, path)


class Look(NamedTuple):
    """What tells a file from others across hosts.

    Parameters
    ----------
    nbytes, inode : int
    mtime_ns : int or None
        None where the file may change while it is mapped.
    digest : bytes or None
        Of blocks of the range that is mapped; None as for `mtime_ns`.
    """

    nbytes: int
    inode: int
    mtime_ns: int | None
    digest: bytes | None


def digest(read: Callable[[int, int], bytes], offset: int, length: int) -> bytes:
    """Digest blocks that are spread over a range of a file.

    Parameters
    ----------
    read : callable
        ``read(offset, nbytes)``; both in bytes.
    offset, length : int
        The range, in bytes.
    """
    found = hashlib.blake2b(digest_size=16)
    last = max(0, length - _BLOCK)
    starts = sorted({last * i // (_BLOCKS - 1) for i in range(_BLOCKS)})
    for start in starts:
        found.update(read(offset + start, min(_BLOCK, length - start)))
    return found.digest()


def check(path: str, expected: Look, offset: int, length: int) -> None:
    """Compare a file with what another host has told of it.

    Parameters
    ----------
    path : str
    expected : Look
    offset, length : int
        The range that is going to be mapped, in bytes.

    Raises
    ------
    BackingError
        Of the type that says what is different.
    """
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
    try:
        # Opening asks the server of a network file system what is so now.
        descriptor = os.open(path, flags)
    except FileNotFoundError as error:
        raise BackingNotFoundError(
            "the file behind an array is not on this host",
            path,
            "the file that the sender has mapped",
            "nothing",
            error.errno or 0,
        ) from None
    except PermissionError as error:
        raise BackingPermissionError(
            "the file behind an array may not be opened on this host",
            path,
            "a file that may be read",
            error.strerror or "an error",
            error.errno or 0,
        ) from None
    except OSError as error:
        raise BackingError(
            "the file behind an array can't be opened on this host",
            path,
            "a file that can be read",
            error.strerror or "an error",
            error.errno or 0,
        ) from None
    try:
        _compare(descriptor, path, expected, offset, length)
    finally:
        os.close(descriptor)


def _compare(
    descriptor: int, path: str, expected: Look, offset: int, length: int
) -> None:
    found = os.fstat(descriptor)
    replaced = functools.partial(
        BackingReplacedError, "another file is behind an array on this host", path
    )
    if found.st_ino != expected.inode:
        raise replaced(f"inode {expected.inode}", f"inode {found.st_ino}")
    if found.st_size < offset + length:
        raise BackingTruncatedError(
            "the file behind an array is shorter on this host",
            path,
            f"at least {offset + length} bytes",
            f"{found.st_size} bytes",
        )
    if expected.mtime_ns is not None:
        mine = found.st_size, found.st_mtime_ns
        if mine != (expected.nbytes, expected.mtime_ns):
            raise replaced(
                f"{expected.nbytes} bytes, modified at {expected.mtime_ns} ns",
                f"{mine[0]} bytes, modified at {mine[1]} ns",
            )
    if expected.digest is not None:
        content = digest(
            lambda start, nbytes: os.pread(descriptor, nbytes, start), offset, length
        )
        if content != expected.digest:
            raise replaced("the content that the sender has mapped", "other content")
