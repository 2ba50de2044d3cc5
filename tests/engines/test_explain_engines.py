"""`explain` for other engines: what it tells is what their messages do."""

import contextlib
import pickle

import numpy as np
import pytest
import samemap
import samemap.pools
from samemap.pools import _messages, _patches
from support import pool_tasks
from support.kinds import COUNT, KINDS, plain


@pytest.fixture
def installed():
    samemap.pools.install()
    yield
    samemap.pools.uninstall()


@pytest.mark.needs_descriptors
@pytest.mark.needs_pagemap
@pytest.mark.parametrize("kind", KINDS)
def test_told_is_done(installed, tmp_path, kind):
    """Way and writes of every kind of memory are as a task's message has them."""
    if KINDS[kind].missing():
        pytest.skip(KINDS[kind].missing())
    with contextlib.ExitStack() as stack:
        array = KINDS[kind].make(tmp_path / "numbers", COUNT, stack)
        told = samemap.explain(array, engine="pools")
        messages = _patches.current()
        task = 0, 0, pool_tasks.echo, (array,), {}
        data, hold = messages.task(task)
        assert told["installed"]
        assert told["engine"] == "pools"
        assert told["by_reference"] == (hold is not None)
        arrived = pickle.loads(data)[3][0]
        assert told["writes"] == ("task" if plain(arrived).flags.writeable else "none")
        del arrived, hold, array


@pytest.mark.needs_descriptors
def test_large_memory(installed):
    """A large array goes by a memory file, and `memory=False` leaves it out."""
    array = np.ones(_messages.EXPORT_MIN)
    assert samemap.explain(array, engine="pools")["reason"] == "exported"
    samemap.pools.install(memory=False)
    assert samemap.explain(array, engine="pools")["reason"] == "memory"


@pytest.mark.needs_maps
def test_who_sees_writes(memmap_path):
    """An np.memmap of mode r+ is the task's own, unless it was asked for."""
    array = np.memmap(memmap_path, np.float64, "r+")
    assert samemap.explain(array)["writes"] == "file"
    told = samemap.explain(array, engine="pools")
    assert told["writes"] == "task"
    assert not told["installed"]
    assert "samemap.pools is not installed: it is copied" in str(told)
    shared = samemap.explain(samemap.zeros(5), engine="pools")
    assert shared["writes"] == "shared"
    samemap.pools.install(write_through=True)
    try:
        assert samemap.explain(array, engine="pools")["writes"] == "file"
    finally:
        samemap.pools.uninstall()


def test_unknown_engine():
    """Another name is an error that says which there are."""
    with pytest.raises(ValueError, match="'dask', 'ray', not 'spark'"):
        samemap.explain(np.zeros(3), engine="spark")
