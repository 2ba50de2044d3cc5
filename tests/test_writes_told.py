"""What `explain` says of writes, and of the bytes and names that go with a map."""

import mmap

import numpy as np
import pytest
import samemap
from samemap import _core

pytestmark = [
    pytest.mark.needs_maps,
    pytest.mark.skipif(
        "writes" not in _core.describe(np.zeros(1)),
        reason="this build doesn't tell who sees writes",
    ),
]


def mapped(path, access):
    with path.open("r+b") as file:
        return np.frombuffer(mmap.mmap(file.fileno(), 0, access=access))


def read_only(array):
    array.flags.writeable = False
    return array


@pytest.mark.parametrize(
    ("make", "writes"),
    [
        (lambda path: np.memmap(path, np.float64, "r+"), "file"),
        (lambda path: np.asarray(np.memmap(path, np.float64, "r+"))[::2], "file"),
        (lambda path: np.memmap(path, np.float64, "c"), "task"),
        (lambda path: np.memmap(path, np.float64, "r"), "none"),
        (lambda path: read_only(np.memmap(path, np.float64, "r+")), "none"),
        (lambda path: mapped(path, mmap.ACCESS_WRITE), "task"),
        (lambda path: mapped(path, mmap.ACCESS_COPY), "task"),
        (lambda path: mapped(path, mmap.ACCESS_READ), "none"),
        (lambda path: np.zeros(3), "task"),
        (lambda path: np.frombuffer(mmap.mmap(-1, 8192)), "task"),
    ],
)
def test_writes(memmap_path, make, writes):
    """The contract's rows: who sees what a task writes."""
    assert samemap.explain(make(memmap_path))["writes"] == writes


def test_write_through(memmap_path):
    """`write_through` shares the writable maps of others, not private ones."""
    with samemap.enabled(write_through=True):
        for access, writes in ((mmap.ACCESS_WRITE, "file"), (mmap.ACCESS_COPY, "task")):
            assert samemap.explain(mapped(memmap_path, access))["writes"] == writes


@pytest.mark.needs_descriptors
def test_unlinked(memmap_path):
    """An unlinked file has its name still, and is said to be unlinked."""
    array = np.memmap(memmap_path, np.float64, "r")
    assert samemap.explain(array)["unlinked"] is False
    memmap_path.unlink()
    told = samemap.explain(array)
    assert (told["path"], told["unlinked"]) == (str(memmap_path), True)
    assert f"{memmap_path}, which is unlinked" in str(told)


@pytest.mark.needs_pagemap
def test_modified_nbytes(memmap_path):
    """The pages that were written, and only those, travel along."""
    array = np.memmap(memmap_path, np.float64, "c")
    assert samemap.explain(array)["modified_nbytes"] == 0
    array[0] = 7
    assert samemap.explain(array)["modified_nbytes"] == mmap.PAGESIZE
