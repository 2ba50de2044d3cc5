"""Checks on request: did the array arrive as it was sent?"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np

from . import _core
from ._errors import VerificationError

Array = np.ndarray[Any, np.dtype[Any]]

# Bytes that one step of a checksum copies at most.
_CHUNK = 1 << 24


class Verified:
    """Wraps a reducer so that the receiver compares what it builds.

    Parameters
    ----------
    reduce : callable
        Reducer of arrays.
    level : {"layout", "data"}
        Compare type, dtype, shape, strides and flags; or the bytes as well.
    """

    def __init__(self, reduce: Callable[[Array], Any], level: str) -> None:
        self.reduce = reduce
        self.level = level

    def __call__(self, array: Array) -> Any:
        reduction = self.reduce(array)
        rebuild, args = reduction[:2]
        if rebuild not in (_core.rebuild, _core.pending) or array.dtype.hasobject:
            return reduction
        expected = fingerprint(array, self.level)
        memory, layout = args[:2]
        if isinstance(memory, tuple):  # of an np.memmap: its attributes follow
            memory = memory[0]
        else:
            expected["type"] = "numpy.ndarray"
        # Read-only where several tasks may get to it: the layout's first flag.
        expected["writeable"] = bool(layout[2] & 1)
        if not isinstance(memory, _core.Backing):
            # A copy keeps values, not gaps between them or shared writing.
            for key in ("strides", "writeable", "contiguous"):
                del expected[key]
        told = expected, _core.describe(array).get("path")
        if rebuild is _core.pending:
            parts = (*args, None, None)[:4]
            return _core.pending, (*parts, (compare, told))
        return checked, (rebuild, args, *told)


def chunks(array: Array) -> Iterator[Array]:
    """Parts of an array of at most `_CHUNK` bytes, in C order of elements."""
    if array.nbytes <= _CHUNK or array.ndim == 0:
        yield array
    elif len(array) == 1:
        yield from chunks(array[0])
    else:
        step = max(1, len(array) * _CHUNK // array.nbytes)
        for start in range(0, len(array), step):
            part = array[start : start + step]
            if step == 1:
                part = part[0]
                yield from chunks(part)
            else:
                yield part


def checksum(array: Array) -> int:
    """CRC-32 of the elements' bytes, padding included."""
    crc = 0
    if array.dtype.itemsize == 0:
        return crc
    for part in chunks(np.asarray(array)):
        # As plain bytes: NumPy's copies of records leave out the padding.
        interface = {**part.__array_interface__, "strides": part.strides}
        interface["typestr"] = f"|V{array.dtype.itemsize}"
        del interface["descr"]
        items = np.asarray(SimpleNamespace(__array_interface__=interface))
        crc = zlib.crc32(items.tobytes(), crc)
    return crc


def fingerprint(array: Array, level: str) -> dict[str, Any]:
    """What is compared at `level`, by name."""
    result = {
        "type": f"{type(array).__module__}.{type(array).__qualname__}",
        "dtype": array.dtype,
        "shape": array.shape,
        "strides": array.strides,
        "writeable": array.flags.writeable,
        "aligned": array.flags.aligned,
        "contiguous": (array.flags.c_contiguous, array.flags.f_contiguous),
    }
    if level == "data":
        result["crc32"] = checksum(array)
    return result


def checked(
    rebuild: Callable[..., Array],
    args: Any,
    expected: dict[str, Any],
    path: str | None = None,
) -> Array:
    """Rebuild an array and compare it with what its sender saw, as `compare` does."""
    return compare(rebuild(*args), (expected, path))


def compare(array: Array, told: tuple[dict[str, Any], str | None]) -> Array:
    """Compare an array with what its sender saw of it, and of its file.

    Raises
    ------
    VerificationError
        Naming the array, its file and every difference.
    """
    expected, path = told
    found = fingerprint(array, "data" if "crc32" in expected else "layout")
    differences = [
        f"{name} is {found[name]!r} instead of {value!r}"
        for name, value in expected.items()
        if found[name] != value
    ]
    if differences:
        where = "in ordinary memory" if path is None else f"on the file {path!r}"
        raise VerificationError(
            f"{expected['type']} of shape {expected['shape']} and "
            f"dtype {expected['dtype']} {where} arrived otherwise than it was "
            "sent: " + "; ".join(differences),
            path,
        )
    return array
