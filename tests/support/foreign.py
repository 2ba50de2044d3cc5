"""Memory mapped as a library in C would: by an owner that Python doesn't know."""

import ctypes
import mmap

import numpy as np

MAP_FIXED = 0x10

libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [
    ctypes.c_void_p,
    ctypes.c_size_t,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_long,
]
libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]


def map_at(
    path, length, offset=0, address=None, prot=mmap.PROT_READ, flags=mmap.MAP_SHARED
):
    """Map part of a file; return the address. No descriptor is kept."""
    flags |= MAP_FIXED if address else 0
    with path.open("r+b") as file:
        return libc.mmap(address, length, prot, flags, file.fileno(), offset)


class Owner:
    """An object of a library that hands out several pieces of memory."""

    def array(self, address, nbytes, readonly=False):
        self.__array_interface__ = {
            "data": (address, readonly),
            "shape": (nbytes,),
            "typestr": "|u1",
            "version": 3,
        }
        array = np.asarray(self)
        del self.__array_interface__
        return array


def array_at(address, nbytes):
    """Show memory as integers, owned by a ctypes array."""
    return np.frombuffer((ctypes.c_char * nbytes).from_address(address), np.int64)
