"""Refusing a system call, as containers and older kernels do."""

import ctypes
import errno
import platform
import struct

# By machine: the numbers of the calls.
NUMBERS = {
    "x86_64": {"userfaultfd": 323, "madvise": 28},
    "aarch64": {"userfaultfd": 282, "madvise": 233},
}

MADV_COLLAPSE = 25

PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS, MODE_FILTER = 22, 38, 2
LOAD, JUMP_IF_EQUAL, RETURN = 0x20, 0x15, 0x06
ALLOW, ANSWER_ERROR = 0x7FFF0000, 0x00050000
NUMBER, THIRD_ARGUMENT = 0, 32  # offsets in struct seccomp_data, little-endian


class Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def install(rows: list[tuple[int, int, int, int]]) -> None:
    """Put a filter on the calls of this process and of its later children."""
    code = b"".join(struct.pack("HBBI", *row) for row in rows)
    program = Program(len(rows), code)
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    if prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) or prctl(
        PR_SET_SECCOMP, MODE_FILTER, ctypes.byref(program), 0, 0
    ):
        raise OSError(ctypes.get_errno(), "seccomp")


def fails(call: str, *args: int) -> bool:
    number = NUMBERS[platform.machine()][call]
    result: int = ctypes.CDLL(None).syscall(number, *args)
    return result < 0


def refuse_userfaultfd() -> None:
    """Answer EPERM for good, as Docker's default filter does.

    Raises
    ------
    KeyError
        The numbers of this machine's calls are not known.
    OSError
        The system has no such filters.
    """
    number = NUMBERS[platform.machine()]["userfaultfd"]
    install(
        [
            (LOAD, 0, 0, NUMBER),
            (JUMP_IF_EQUAL, 0, 1, number),
            (RETURN, 0, 0, ANSWER_ERROR | errno.EPERM),
            (RETURN, 0, 0, ALLOW),
        ]
    )
    assert fails("userfaultfd", 1)  # for the user's own accesses alone


def refuse_collapse() -> None:
    """Answer EINVAL to MADV_COLLAPSE alone for good, as Linux before 6.1 does.

    All that the allocators ask of madvise goes on as before. Raises as above.
    """
    number = NUMBERS[platform.machine()]["madvise"]
    install(
        [
            (LOAD, 0, 0, NUMBER),
            (JUMP_IF_EQUAL, 0, 3, number),
            (LOAD, 0, 0, THIRD_ARGUMENT),
            (JUMP_IF_EQUAL, 0, 1, MADV_COLLAPSE),
            (RETURN, 0, 0, ANSWER_ERROR | errno.EINVAL),
            (RETURN, 0, 0, ALLOW),
        ]
    )
    assert fails("madvise", 0, 0, MADV_COLLAPSE)  # nothing at all is allowed else
