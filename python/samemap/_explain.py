"""How will this array travel, and why? And what has travelled so far?"""

from __future__ import annotations

import io
from typing import Any

import numpy as np

from . import _core
from ._pickling import Pickler
from ._tables import Options, make_table


class Explanation(dict[str, Any]):
    """A dict that prints as sentences. See `explain` for the keys."""

    def __str__(self) -> str:
        head = "by reference" if self["by_reference"] else "by value"
        lines = [f"{head}: {self['type']} {self['shape']} {self['dtype']}"]
        if self["why"]:
            lines.append(f"because {self['why']}")
        if "path" in self:
            writable = "writable" if self["writable"] else "read-only"
            first, length = self["map_offset"], self["map_length"]
            lines += [
                f"file      {self['path']}",
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
        ``reason`` (a key of `stats`, "" by reference), ``why`` (the reason in
        words), ``type``, ``dtype``, ``shape``, ``strides`` (bytes), ``writeable``,
        ``nbytes``, ``message_nbytes`` (bytes pickled for the array alone). For
        memory on a mapped file also ``path``, ``identity``, ``route`` ("path",
        "descriptor" or ""), ``sharing`` ("shared" or "private"), ``writable`` (the
        map's access), ``map_offset`` (bytes, in the file), ``map_length`` (bytes)
        and ``offset`` (bytes, of the first element in the map).

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
    result["type"] = f"{type(array).__module__}.{type(array).__qualname__}"
    result["by_reference"] = not result["reason"]
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
