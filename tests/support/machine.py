"""What the system tells this process, and how others may reach it: measured.

With SAMEMAP_TEST_NOT_DUMPABLE set, this process may not be looked into.
"""

import ctypes
import fcntl
import mmap
import os
import struct
import tempfile

from samemap import _core

PR_GET_DUMPABLE, PR_SET_DUMPABLE = 3, 4

prctl = ctypes.CDLL(None).prctl

if os.environ.get("SAMEMAP_TEST_NOT_DUMPABLE"):
    prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)


def can_open(path):
    try:
        os.close(os.open(path, os.O_RDONLY))
    except OSError:
        return False
    return True


# The module was built to ask the system (see SAMEMAP_OS in setup.py).
ASKS = _core.SYSTEM != "none"


def shows_maps():
    """Look for a map of a file in the table, which an emulator may leave out."""
    if not can_open("/proc/self/maps"):
        return False
    with tempfile.NamedTemporaryFile() as file:
        file.write(b"x")
        file.flush()
        with mmap.mmap(file.fileno(), 0), open("/proc/self/maps") as maps:
            return any(line.rstrip("\n").endswith(file.name) for line in maps)


# The system tells which file is mapped at an address.
MAPS = ASKS and shows_maps()


def can_query():
    """Ask for the first mapping by PROCMAP_QUERY, which Linux 6.11 brought."""
    covering_or_next = 0x10
    query = bytearray(struct.pack("QQQ", 104, covering_or_next, 0).ljust(104, b"\0"))
    try:
        with open("/proc/self/maps", "rb") as file:
            fcntl.ioctl(file, 0xC0686611, query)
    except OSError:
        return False
    return True


# And it does so for one address at a time, without its whole table.
PROCMAP_QUERY = ASKS and can_query()

# It tells which pages of a private map were modified: to the owner of the process,
# who is root where it is not dumpable.
PAGEMAP = ASKS and can_open("/proc/self/pagemap")

# Other processes of the user can open this one's descriptors.
DESCRIPTORS = MAPS and prctl(PR_GET_DUMPABLE, 0, 0, 0, 0) == 1

# Markers of tests: whether what they need is there, and what it means if not.
NEEDS = {
    "needs_maps": (
        MAPS,
        "nobody tells which file is mapped: no /proc, or SAMEMAP_OS=none",
    ),
    "needs_procmap_query": (PROCMAP_QUERY, "this kernel has no PROCMAP_QUERY"),
    "needs_pagemap": (PAGEMAP, "nobody tells which pages of a private map changed"),
    "needs_descriptors": (DESCRIPTORS, "workers can't open this process's descriptors"),
}
