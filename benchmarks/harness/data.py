"""The data that is sent."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np


@contextmanager
def folder(parent: str | None = None) -> Iterator[Path]:
    """A temporary directory, removed at the end."""
    with tempfile.TemporaryDirectory(prefix="samemap-bench-", dir=parent) as path:
        yield Path(path)


def make_memmap(path: Path, shape: tuple[int, ...], dtype: str = "f8") -> np.memmap:
    """Write random data to a new file and map it read-only, by a string."""
    rng = np.random.default_rng(0)
    array = np.memmap(str(path), dtype, "w+", shape=shape)
    for part in array:
        part[...] = rng.random(part.shape, "f4")
    array.flush()
    del array
    return np.memmap(str(path), dtype, "r", shape=shape)


def by_path(memmap: np.memmap) -> np.memmap:
    """The same file mapped by a `Path`.

    np.memmap keeps what it was given, and joblib gives it to np.memmap again in the
    worker, for each view. A `Path` is resolved there once more, in Python.
    """
    return np.memmap(Path(str(memmap.filename)), memmap.dtype, "r", shape=memmap.shape)
