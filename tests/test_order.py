"""What is decided about an array, in which order: nothing happens in between."""

import gc
import mmap
import os

import numpy as np
import pytest
import samemap
from samemap import _core
from support.foreign import array_at, map_at

PAGE = mmap.PAGESIZE


@pytest.mark.needs_maps
@pytest.mark.needs_descriptors
def test_file_found_again(tmp_path):
    """A file that is found late shows where it ends: what lies behind is copied."""
    path, other = tmp_path / "data", tmp_path / "other"
    path.write_bytes(bytes([7]) * (PAGE + PAGE // 2))
    address = map_at(path, 2 * PAGE)
    array = array_at(address, 2 * PAGE)
    os.link(path, other)
    os.unlink(path)
    unreachable = samemap.dumps(array)
    fd = os.open(other, os.O_RDONLY)
    try:
        for part in (array[-10:], array, array[:10]):
            np.testing.assert_array_equal(samemap.loads(samemap.dumps(part)), part)
        assert samemap.explain(array[:10])["route"] == "descriptor"
        assert samemap.explain(array)["reason"] == "outside"
    finally:
        os.close(fd)
    np.testing.assert_array_equal(samemap.loads(unreachable), array)


@pytest.mark.needs_pagemap
def test_finalizer_that_sends_the_same_map(memmap_path):
    """A collection amid a message may send the map: the message stays complete."""
    array = np.memmap(memmap_path, np.float64, "c")
    array[:] = -1
    reducer = _core.Reducer()
    sent = []

    class Garbage:
        def __init__(self):
            self.cycle = self

        def __del__(self):
            if collecting:
                sent.append(samemap.dumps(array))
                Garbage()

    before = gc.get_threshold()
    message = _core.Outgoing()
    collecting = True
    Garbage()
    # Free lists are used up: a new list is an allocation, which may collect.
    lists = [[] for _ in range(1000)]
    try:
        gc.set_threshold(1)
        reduction = reducer.reduce(array)
    finally:
        gc.set_threshold(*before)
        collecting = False
    del message, lists
    rebuild, arguments = reduction
    assert sum(len(patch) for patch in arguments[3][1::2]) == array.nbytes
    for other in sent:
        assert (samemap.loads(other) == -1).all()
    assert rebuild is _core.rebuild
