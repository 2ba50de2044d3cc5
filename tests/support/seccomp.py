"""Filters on system calls, as containers and sandboxes have them."""

import ctypes
import errno
import platform
import struct

import pytest

# By machine: the numbers of the calls.
NUMBERS = {
    "x86_64": {"memfd_create": 319, "userfaultfd": 323, "madvise": 28, "ioctl": 16},
    "aarch64": {"memfd_create": 279, "userfaultfd": 282, "madvise": 233, "ioctl": 29},
}

KILL = 0x80000000  # SECCOMP_RET_KILL_PROCESS
REFUSE = 0x00050000 | errno.EPERM  # SECCOMP_RET_ERRNO
ALLOW = 0x7FFF0000

PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS, MODE_FILTER = 22, 38, 2
LOAD, JUMP_IF_EQUAL, RETURN = 0x20, 0x15, 0x06


class Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def forbid(call, action):
    """Forbid one system call to this process and its children, for good."""
    number = NUMBERS[platform.machine()][call]
    rows = [
        (LOAD, 0, 0, 0),
        (JUMP_IF_EQUAL, 0, 1, number),
        (RETURN, 0, 0, action),
        (RETURN, 0, 0, ALLOW),
    ]
    code = b"".join(struct.pack("HBBI", *row) for row in rows)
    program = Program(len(rows), code)
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    if prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) or prctl(
        PR_SET_SECCOMP, MODE_FILTER, ctypes.byref(program), 0, 0
    ):
        raise OSError(ctypes.get_errno(), "seccomp")


def forbidding(call, action):
    """Return what forbids it in a child of subprocess; skip where nobody can."""
    if platform.machine() not in NUMBERS:
        pytest.skip("the numbers of system calls are not known here")
    return lambda: forbid(call, action)
