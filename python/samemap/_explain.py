"""How will this array travel, and why? And what has travelled so far?"""

from __future__ import annotations

import copyreg
import importlib
import io
import os
import pickle
from typing import Any

import numpy as np

from . import _core, _lost
from ._switch import current_options
from ._tables import Options, Table, make_engine_table, make_table

# For which `explain` can tell: their modules have a function `explain_array`.
ENGINES = ("pools", "dask", "ray")

_SUBCLASS = (
    "it is of a class that pickles its memory by itself; samemap.register would "
    "send it by reference"
)

_EXPORTED = (
    "it is in ordinary memory and large: copied once, into a memory file that each "
    "task maps for itself"
)

_LASTING = "no path leads to the file, and the message may outlive the array"

# Who sees what a task writes: with a file, and without.
_WRITES = {
    "file": ("reach the file and everybody who maps it",) * 2,
    "shared": ("are seen by everybody who has this memory",) * 2,
    "task": (
        "are the task's own: neither the file nor the caller sees them",
        "are the task's own: the caller doesn't see them",
    ),
    "none": ("are not possible: it arrives read-only",) * 2,
}


def _printable(path: str) -> str:
    # Bytes that are no text would stop `print`.
    return os.fsencode(path).decode(errors="backslashreplace")


class Explanation(dict[str, Any]):
    """A dict that prints as sentences. See `explain` for the keys."""

    def __str__(self) -> str:
        head = "by reference" if self["by_reference"] else "by value"
        lines = [f"{head}: {self['type']} {self['shape']} {self['dtype']}"]
        if self["why"]:
            lines.append(f"because {self['why']}")
        if "path" in self:
            lines += self._file()
        if "writes" in self:
            with_file, without = _WRITES[self["writes"]]
            lines.append(f"writes    {with_file if 'path' in self else without}")
        message, nbytes = self["message_nbytes"], self["nbytes"]
        lines.append(f"message   {message} bytes for {nbytes} bytes of elements")
        if not self["installed"]:
            engine = self.get("engine", "joblib")
            way = "joblib goes its own way" if engine == "joblib" else "it is copied"
            name = "samemap" if engine == "joblib" else f"samemap.{engine}"
            lines.append(f"but       {name} is not installed: {way}")
        return "\n".join(lines)

    __repr__ = __str__

    def _file(self) -> list[str]:
        writable = "writable" if self["map_writable"] else "read-only"
        first, length = self["map_offset"], self["map_length"]
        unlinked = ", which is unlinked" if self.get("unlinked") else ""
        lines = [
            f"file      {_printable(self['path'])}{unlinked}",
            f"identity  {self['identity']}",
            f"map       bytes {first} to {first + length} of the file, "
            f"{self['sharing']}, {writable}",
            f"view      starts {self['offset']} bytes into the map, "
            f"strides {self['strides']}",
        ]
        if self["sharing"] == "private" and "modified_nbytes" in self:
            modified = self["modified_nbytes"]
            lines.append(
                f"modified  {modified} bytes of pages that were written travel along"
                if modified
                else "modified  none of its pages was written: nothing travels along"
            )
        if self["route"] == "path":
            lines.append("route     the worker opens the path")
        elif self["route"]:
            lines.append("route     through a descriptor of this process")
        return lines


# Of `Statistics`, which come first; what follows are the reasons of the second.
TOTALS = ("by reference", "by value")
# And which comes last.
LOST = "writes lost"


class Statistics(dict[str, dict[str, int]]):
    """A dict that prints as a table. See `stats` for the keys."""

    def __str__(self) -> str:
        rows = [("", "arrays", "bytes of elements")]
        for key, count in self.items():
            if key in TOTALS:
                rows.append((key, f"{count['arrays']:,}", f"{count['bytes']:,}"))
            elif count["arrays"]:
                name = key if key == LOST else f"  {key}"
                rows.append((name, f"{count['arrays']:,}", f"{count['bytes']:,}"))
        widths = [max(len(row[i]) for row in rows) for i in range(3)]
        return "\n".join(
            f"{name:<{widths[0]}}  {arrays:>{widths[1]}}  {nbytes:>{widths[2]}}"
            for name, arrays, nbytes in rows
        )

    __repr__ = __str__


# joblib's default of max_nbytes, "1M".
MAX_NBYTES = 1 << 20


def write_alone(
    array: np.ndarray[Any, np.dtype[Any]],
    table: Table,
    export_min: int,
    protocol: int = 5,
) -> tuple[int, bool]:
    """Write a message with the array alone.

    Parameters
    ----------
    array : numpy.ndarray
    table : dict
        Reducers by exact type, which don't count what they send.
    export_min : int
        Larger arrays in ordinary memory go by a memory file; -1: none do.
    protocol : int
        The pickler's.

    Returns
    -------
    int
        Its bytes.
    bool
        The array goes by a memory file.
    """
    file = io.BytesIO()
    pickler = pickle.Pickler(file, protocol)
    pickler.dispatch_table = {**copyreg.dispatch_table, **table}
    held: list[Any] = []
    message = _core.Outgoing(held, export_min)
    try:
        pickler.dump(array)
    finally:
        message.close()
    exported = any(isinstance(obj, _core.Export) for obj in held)
    if exported:
        _core.forget_images()
    return file.tell(), exported


def explain(
    array: np.ndarray[Any, np.dtype[Any]], *, engine: str = "joblib"
) -> Explanation:
    """Tell how an array will travel to a worker, and why.

    Parameters
    ----------
    array : numpy.ndarray
        Or an instance of a subclass: its memory is looked at.
    engine : {"joblib", "pools", "dask", "ray"}
        To a worker of whom: joblib's pools, or those of the standard library (see
        `samemap.pools.install`), where it is told for an argument of a task, or dask's
        (`samemap.dask.install`), those of the default client if there is one, or Ray's
        (`samemap.ray.install`). There ``workers`` tells of each, by its address or of
        a Ray node by its id, whether it may be sent a reference.

    Returns
    -------
    Explanation
        A dict that prints readably.

        Always there: ``by_reference`` (bool), ``reason`` (a key of `stats`,
        "subclass" for a class that was not registered, "" by reference), ``why``
        (the reason in words), ``installed`` (False: `Parallel` uses joblib's own
        reducers here and now; the engine its own), ``type``, ``dtype``, ``shape``,
        ``strides`` (bytes), ``writeable``, ``nbytes``, ``message_nbytes`` (bytes
        pickled for the array alone), and ``writes``: who sees what a task writes to
        the array. "file": the file and everybody who maps it; "shared": everybody who
        has this memory, which was made for that; "task": the task alone; "none":
        nobody, as it arrives read-only.

        For memory on a mapped file also ``path``, ``unlinked`` (bool: the name is
        gone, or is another file's), ``identity``, ``route`` ("path", "descriptor" or
        ""), ``sharing`` ("shared" or "private"), ``map_writable`` (the map's access,
        beside the array's flag), ``modified_nbytes`` (bytes of a private map's pages
        that were written and travel along, 0 for a shared one), ``map_offset``
        (bytes, in the file), ``map_length`` (bytes) and ``offset`` (bytes, of the
        first element in the map).

    Raises
    ------
    BackingTruncatedError
        If the file has become shorter than the map.
    TypeError
        If `array` is no array.
    ValueError
        If no engine has that name.

    Notes
    -----
    With ``engine="joblib"`` this is about an array that is an argument of a task, and
    about joblib's defaults: a ``max_nbytes`` of 1 MiB, and no ``mmap_mode`` that was
    named, as with that joblib dumps what is larger to a file and sends it read-only.
    What sits in an object, a partial or a closure and is larger arrives read-only, too,
    unless writes to it are shared or it is a `numpy.memmap`.

    An array by value is written once to know the size of its message.

    Examples
    --------
    >>> import numpy as np
    >>> import samemap
    >>> samemap.explain(np.arange(6.0)[::2])
    by value: numpy.ndarray (3,) float64
    because the array is in ordinary memory, not in a mapped file
    writes    are the task's own: the caller doesn't see them
    message   87 bytes for 24 bytes of elements
    >>> told = samemap.explain(samemap.zeros(1000))
    >>> told["by_reference"], told["writes"]
    (True, 'shared')
    """
    if engine != "joblib":
        if engine not in ENGINES:
            names = ", ".join(map(repr, ["joblib", *ENGINES]))
            raise ValueError(f"engine must be one of {names}, not {engine!r}")
        told: Explanation = importlib.import_module(
            f"{__package__}.{engine}"
        ).explain_array(array)
        return told
    result = describe(array)
    options = current_options()
    if options is not None and options.write_through and _can_write_through(result):
        result["writes"] = "file"
    result["installed"] = options is not None
    exports = options is not None and options.memory
    table = make_table(Options(), counted=False)
    found = write_alone(array, table, MAX_NBYTES if exports else -1)
    result["message_nbytes"], exported = found
    if exported:
        result |= {"reason": "exported", "why": _EXPORTED}
    return result


def describe(array: np.ndarray[Any, np.dtype[Any]]) -> Explanation:
    """Tell what an array lies on, and what joblib's workers would see of it."""
    result = Explanation(_core.describe(array))
    cls = type(array)
    result["type"] = f"{cls.__module__}.{cls.__qualname__}"
    if not result["reason"] and cls not in make_table(Options()):
        result |= {"reason": "subclass", "why": _SUBCLASS, "route": ""}
        if "writes" in result:
            result["writes"] = "task"
    result["by_reference"] = not result["reason"]
    return result


def explain_for_engine(
    array: np.ndarray[Any, np.dtype[Any]],
    engine: str,
    *,
    installed: bool,
    write_through: bool,
    export_min: int,
    protocol: int,
    lasting: bool = False,
) -> Explanation:
    """Do the work of `explain` for an engine that has `make_engine_table`'s reducers.

    Parameters
    ----------
    array : numpy.ndarray
    engine : str
        Its name, as in ``samemap.<engine>``.
    installed : bool
    write_through, lasting, protocol
        As for `make_engine_table`.
    export_min : int
        Larger arrays in ordinary memory go by a memory file; -1: none do.

    Returns
    -------
    Explanation
        With the key ``engine``.
    """
    result = describe(array)
    result["engine"] = engine
    table = make_engine_table(
        protocol=protocol, lasting=lasting, write_through=write_through, counted=False
    )
    found = write_alone(array, table, export_min, protocol)
    result["message_nbytes"], exported = found
    requested = result["writes"] == "shared"
    if exported:
        result |= {"reason": "exported", "why": _EXPORTED}
    elif result["by_reference"]:
        if lasting and result["route"] == "descriptor" and not requested:
            result |= {"reason": "unreachable", "why": _LASTING, "route": ""}
            result["by_reference"] = False
        elif write_through and _can_write_through(result):
            result["writes"] = "file"
        elif result["writes"] == "file" and not write_through:
            result["writes"] = "task"
    if not result["by_reference"] and not exported:
        # NumPy's own pickles are writeable, whatever was sent.
        result["writes"] = "none" if requested else "task"
    result["installed"] = installed
    return result


def _can_write_through(told: Explanation) -> bool:
    """Tell whether ``install(write_through=True)`` changes who sees writes."""
    return (
        told["by_reference"]
        and told.get("writes") == "task"
        and told.get("sharing") == "shared"
        and told["map_writable"]
    )


def stats() -> Statistics:
    """Count what this process has sent so far: arguments, or in a worker results.

    Returns
    -------
    Statistics
        A dict that prints as a table. ``"by reference"`` and ``"by value"`` are the
        totals; then, by reason, what of the latter went by value for it: "memory",
        "objects", "anonymous" and the like, as `explain` gives them, all of them
        always there. Last, ``"writes lost"``: arguments in memory files to which tasks
        have written for themselves alone, with the bytes of that memory, as far as
        results have told. Each value is ``{"arrays": n, "bytes": n}``, the bytes being
        those of the arrays' elements.
    """
    counts = _core.counts()
    lost = dict(zip(("arrays", "bytes"), _lost.total(), strict=True))
    by_reference = counts.pop("by reference")
    by_value = [sum(column) for column in zip(*counts.values(), strict=True)]
    totals = dict(zip(TOTALS, (by_reference, by_value), strict=True))
    told = {
        key: {"arrays": arrays, "bytes": nbytes}
        for key, (arrays, nbytes) in {**totals, **counts}.items()
    }
    return Statistics({**told, LOST: lost})
