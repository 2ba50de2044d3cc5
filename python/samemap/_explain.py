"""How will this array travel, and why? And what has travelled so far?"""

from __future__ import annotations

import io
import os
from typing import Any

import numpy as np

from . import _core
from ._pickling import Pickler
from ._switch import installed
from ._tables import Options, make_table

_SUBCLASS = (
    "it is of a class that pickles its memory by itself; samemap.register would "
    "send it by reference"
)


class Explanation(dict[str, Any]):
    """A dict that prints as sentences. See `explain` for the keys."""

    def __str__(self) -> str:
        head = "by reference" if self["by_reference"] else "by value"
        lines = [f"{head}: {self['type']} {self['shape']} {self['dtype']}"]
        if self["why"]:
            lines.append(f"because {self['why']}")
        if "path" in self:
            writable = "writable" if self["map_writable"] else "read-only"
            first, length = self["map_offset"], self["map_length"]
            # Bytes that are no text would stop `print`.
            path = os.fsencode(self["path"]).decode(errors="backslashreplace")
            lines += [
                f"file      {path}",
                f"identity  {self['identity']}",
                f"map       bytes {first} to {first + length} of the file, "
                f"{self['sharing']}, {writable}",
                f"view      starts {self['offset']} bytes into the map, "
                f"strides {self['strides']}",
            ]
            if self["route"] == "path":
                lines.append("route     the worker opens the path")
            elif self["route"]:
                lines.append("route     through a descriptor of this process")
        message, nbytes = self["message_nbytes"], self["nbytes"]
        lines.append(f"message   {message} bytes for {nbytes} bytes of elements")
        if not self["installed"]:
            lines.append("but       samemap is not installed: joblib goes its own way")
        return "\n".join(lines)

    __repr__ = __str__


def message_nbytes(array: np.ndarray[Any, np.dtype[Any]]) -> int:
    """Bytes of a message with the array alone, without counting it as sent."""
    file = io.BytesIO()
    pickler = Pickler(file)
    uncounted = make_table(Options(), counted=False)
    pickler.dispatch_table = {**pickler.dispatch_table, **uncounted}
    pickler.dump(array)
    return file.tell()


def explain(array: np.ndarray[Any, np.dtype[Any]]) -> Explanation:
    """Tell how an array will travel to a worker, and why.

    Parameters
    ----------
    array : numpy.ndarray
        Or an instance of a subclass: its memory is looked at.

    Returns
    -------
    Explanation
        A dict that prints readably. Always there: ``by_reference`` (bool),
        ``reason`` (a key of `stats`, "subclass" for a class that was not
        registered, "" by reference), ``why`` (the reason in words), ``installed``
        (False: `Parallel` uses joblib's own reducers now), ``type``, ``dtype``,
        ``shape``, ``strides`` (bytes), ``writeable``, ``nbytes``,
        ``message_nbytes`` (bytes pickled for the array alone). For memory on a
        mapped file also ``path``, ``identity``, ``route`` ("path", "descriptor" or
        ""), ``sharing`` ("shared" or "private"), ``map_writable`` (the map's access,
        beside the array's flag), ``map_offset`` (bytes, in the file), ``map_length``
        (bytes) and ``offset`` (bytes, of the first element in the map).

    Raises
    ------
    BackingTruncatedError
        If the file has become shorter than the map.
    TypeError
        If `array` is no array.

    Notes
    -----
    An array by value is pickled once to know the size of its message; joblib
    would dump one of more than ``max_nbytes`` to a file instead.
    """
    result = Explanation(_core.describe(array))
    cls = type(array)
    result["type"] = f"{cls.__module__}.{cls.__qualname__}"
    if not result["reason"] and cls not in make_table(Options()):
        result |= {"reason": "subclass", "why": _SUBCLASS, "route": ""}
    result["by_reference"] = not result["reason"]
    result["installed"] = installed()
    result["message_nbytes"] = message_nbytes(array)
    return result


def stats() -> dict[str, dict[str, int]]:
    """Count what this process has sent so far.

    Returns
    -------
    dict
        ``{"by reference": {"arrays": n, "bytes": n}, reason: {...}, ...}``, the
        reasons being those for which arrays went by value. Bytes are those of
        the arrays' elements.
    """
    return {
        key: {"arrays": arrays, "bytes": nbytes}
        for key, (arrays, nbytes) in _core.counts().items()
    }
