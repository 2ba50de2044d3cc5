"""What people are told: explanations, counters, strict mode."""

import mmap
import os

import numpy as np
import pytest
import samemap
from joblib import Parallel, delayed
from samemap import _core
from support.foreign import array_at, libc, map_at

PROT_WRITE = mmap.PROT_READ | mmap.PROT_WRITE


@pytest.fixture
def path(raw_file):
    return raw_file(np.arange(1000, dtype=np.float64))


def count(key):
    return samemap.stats()[key]["arrays"]


@pytest.mark.needs_maps
def test_by_reference(path):
    """The file, its identity, the layout and the way to it are all told."""
    array = np.memmap(path, ">f4", "r", offset=4096 + 40, shape=(10, 20))[::-1, 3:].T
    told = samemap.explain(array)
    status = path.stat()
    assert told["by_reference"]
    assert (told["reason"], told["why"]) == ("", "")
    assert told["path"] == str(path)
    assert f"inode {status.st_ino}" in told["identity"]
    assert f"device {os.major(status.st_dev)}:" in told["identity"]
    assert (told["route"], told["sharing"], told["map_writable"]) == (
        "path",
        "shared",
        False,
    )
    assert (told["map_offset"], told["map_length"]) == (4096, 40 + 800)
    assert told["offset"] == 40 + 9 * 80 + 3 * 4
    assert told["strides"] == array.strides
    assert told["message_nbytes"] == len(samemap.dumps(array))
    for word in (str(path), "read-only", "by reference", "numpy.memmap"):
        assert word in str(told)


def test_ordinary_memory():
    """An array in memory has no file and no path."""
    told = samemap.explain(np.arange(5))
    assert told["reason"] == "memory"
    assert "path" not in told
    assert "ordinary memory" in str(told)


def anonymous(path):
    return np.frombuffer(mmap.mmap(-1, 8192), np.uint8)


def unreachable(path):
    """A map whose file has neither a path nor an open descriptor."""
    array = array_at(map_at(path, 8000), 8000)
    path.unlink()
    return array


def modified(path):
    """Private memory that was modified and is read-only now."""
    address = map_at(path, 8000, prot=PROT_WRITE, flags=mmap.MAP_PRIVATE)
    array = array_at(address, 8000)
    array[3] = 7
    assert libc.mprotect(address, 8000, mmap.PROT_READ) == 0
    return array


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        pytest.param(anonymous, "anonymous", marks=pytest.mark.needs_maps),
        pytest.param(unreachable, "unreachable", marks=pytest.mark.needs_maps),
        pytest.param(modified, "modified", marks=pytest.mark.needs_pagemap),
        (lambda path: np.array([{}]), "objects"),
    ],
)
def test_by_value(path, make, reason):
    """Each reason is told and counted, and the copy has the same bytes."""
    array = make(path)
    told = samemap.explain(array)
    assert not told["by_reference"]
    assert told["reason"] == reason
    assert told["why"] in str(told)
    before = count(reason)
    copy = samemap.loads(samemap.dumps(array))
    assert count(reason) == before + 1
    assert not np.shares_memory(copy, array)
    assert copy.tolist() == array.tolist()


@pytest.mark.needs_maps
@pytest.mark.parametrize("distance", [-8, 0, 800, 8000, 8008])
def test_empty(path, distance):
    """An array of no elements goes by reference, wherever it points."""
    array = np.memmap(path, np.float64, "r+")
    strided = np.lib.stride_tricks.as_strided(array, (0,), (56,))
    interface = array.__array_interface__
    address, readonly = interface["data"]
    interface.update(shape=(0,), strides=(56,), data=(address + distance, readonly))
    strided.base.__array_interface__ = interface
    empty = np.asarray(strided.base)
    assert empty.ctypes.data - array.ctypes.data == distance
    assert samemap.explain(empty)["by_reference"]
    copy = samemap.loads(samemap.dumps(empty))
    assert (copy.shape, copy.strides) == ((0,), (56,))
    # On the map of the message, as any other view of it.
    other = samemap.loads(samemap.dumps(array[:1]))
    assert type(copy.base) is np.memmap
    assert copy.base._mmap is other.base._mmap is not array._mmap


def test_gaps_are_not_copied(path):
    """A copy has the elements, not what lies between them."""
    array = anonymous(path)[::100]
    assert len(samemap.dumps(array)) < 300
    wide = np.broadcast_to(anonymous(path)[:10], (1000, 10))
    assert len(samemap.dumps(wide)) < 300
    assert samemap.loads(samemap.dumps(wide)).shape == (1000, 10)


class Own(np.ndarray):
    """A class that samemap is not told of."""


@pytest.mark.needs_maps
def test_unknown_subclass(path):
    """What pickles itself is not said to go by reference."""
    array = np.memmap(path, np.float64, "r").view(Own)
    told = samemap.explain(array)
    assert (told["by_reference"], told["reason"]) == (False, "subclass")
    assert told["message_nbytes"] > array.nbytes
    assert "samemap.register" in str(told)
    assert samemap.explain(array.view(np.recarray))["by_reference"]


def test_not_installed(path):
    """Where joblib goes its own way, that is said."""
    array = np.memmap(path, np.float64, "r")
    assert samemap.explain(array)["installed"]
    with samemap.disabled():
        told = samemap.explain(array)
    assert not told["installed"]
    assert "not installed" in str(told)


@pytest.mark.needs_maps
def test_path_that_is_no_text(tmp_path):
    """A file name of any bytes can be printed."""
    path = os.fsdecode(os.path.join(os.fsencode(tmp_path), b"latin-\xe9"))
    array = np.memmap(path, np.uint8, "w+", shape=(10,))
    told = samemap.explain(array)
    assert told["path"] == path
    assert r"latin-\xe9" in str(told).encode().decode()


@pytest.mark.needs_maps
def test_counters(path):
    """Arrays and their bytes are counted where they are sent, not explained."""
    array = np.memmap(path, np.float64, "r+")
    before = samemap.stats()
    samemap.explain(array)
    assert samemap.stats() == before
    samemap.dumps([array[:10], array[::-1], np.zeros(3)])
    after = samemap.stats()
    assert after["by reference"]["arrays"] == before["by reference"]["arrays"] + 2
    assert after["by reference"]["bytes"] == before["by reference"]["bytes"] + 8080
    assert after["memory"]["bytes"] == before["memory"]["bytes"] + 24


@pytest.mark.parametrize(
    "make",
    [
        anonymous,
        pytest.param(unreachable, marks=pytest.mark.needs_maps),
        pytest.param(modified, marks=pytest.mark.needs_maps),
    ],
)
def test_strict(path, make):
    """Strict: mapped memory that would be copied raises, with the reason."""
    array = make(path)
    with pytest.raises(samemap.StrictError, match=samemap.explain(array)["why"][:20]):
        samemap.dumps(array, strict=True)


@pytest.mark.needs_maps
def test_strict_names_the_array(path):
    """Among many arguments: which one was it?"""
    array = modified(path)
    with pytest.raises(samemap.StrictError) as caught:
        samemap.dumps(array, strict=True)
    for word in ("ndarray", "(1000,)", "int64", str(path)):
        assert word in str(caught.value)


@pytest.mark.needs_maps
def test_strict_lets_memory_pass(path):
    """Strict is about mapped memory only."""
    mapped = np.memmap(path, np.float64, "r")
    assert samemap.loads(samemap.dumps([np.arange(3), mapped], strict=True))[1][5] == 5


@pytest.mark.needs_maps
@pytest.mark.parametrize("backend", ["loky", "multiprocessing"])
def test_strict_reaches_the_caller(path, backend):
    """From `Parallel` the error comes as itself, and the next call works."""
    array = anonymous(path)
    with samemap.enabled(strict=True):
        with pytest.raises(samemap.StrictError):
            Parallel(n_jobs=2, backend=backend)([delayed(len)(array)])
        mapped = np.memmap(path, np.float64, "r")
        assert Parallel(n_jobs=2, backend=backend)([delayed(len)(mapped)]) == [1000]


def unlinked(path):
    """An np.memmap of a worker's, which nobody else has."""
    array = np.memmap(path, np.float64, "r+")
    path.unlink()
    return array


def return_with(make, path):
    return make(path)


def raise_with(make, path):
    raise ValueError(make(path))


@pytest.mark.needs_maps
@pytest.mark.parametrize("backend", ["loky", "multiprocessing"])
@pytest.mark.parametrize("function", [return_with, raise_with])
def test_strict_on_the_way_back(path, backend, function):
    """Also when a worker's result or exception has an np.memmap that is copied."""
    with samemap.enabled(strict=True), pytest.raises(samemap.StrictError):
        Parallel(n_jobs=2, backend=backend)([delayed(function)(unlinked, path)])


@pytest.mark.parametrize("backend", ["loky", "multiprocessing"])
def test_strict_and_copied_results(path, backend):
    """Results in other maps are always copies: that is no matter of strictness."""
    with samemap.enabled(strict=True):
        parallel = Parallel(n_jobs=2, backend=backend)
        [result] = parallel([delayed(return_with)(anonymous, path)])
        with pytest.raises(ValueError, match=r"\[0"):
            parallel([delayed(raise_with)(anonymous, path)])
    np.testing.assert_array_equal(result, anonymous(path))


def test_not_an_array():
    """Other objects are refused by type."""
    with pytest.raises(TypeError, match="expected an array"):
        samemap.explain([1, 2])


@pytest.mark.needs_maps
@pytest.mark.needs_descriptors
def test_large_memory():
    """Ordinary memory above joblib's limit: it says that it goes by a memory file."""
    array = np.zeros((1000, 140))
    told = samemap.explain(array)
    assert (told["reason"], told["by_reference"], told["writes"]) == (
        "exported",
        False,
        "task",
    )
    assert told["message_nbytes"] < 1000
    assert samemap.explain(array[:100])["reason"] == "memory"
    with samemap.enabled(memory=False):
        assert samemap.explain(array)["reason"] == "memory"


def test_statistics(path):
    """The totals come first and are the sums; it prints as a table without zeros."""
    before = samemap.stats()
    samemap.dumps([np.memmap(path, np.float64, "r"), np.zeros(3), anonymous(path)])
    after = samemap.stats()
    assert [*after][:2] == ["by reference", "by value"]
    assert [*after][-1] == "writes lost"
    for unit, nbytes in (("arrays", 2), ("bytes", 24 + 8192)):
        assert after["by value"][unit] - before["by value"][unit] == nbytes
        reasons = [count[unit] for count in [*after.values()][2:-1]]
        assert after["by value"][unit] == sum(reasons)
    lines = str(after).split("\n")
    assert lines[1].split()[:2] == ["by", "reference"]
    assert lines[2].split()[:2] == ["by", "value"]
    assert f"{after['by value']['bytes']:,}" in lines[2]
    shown = {line.rsplit(maxsplit=2)[0].strip() for line in lines[3:]}
    assert shown == {key for key in [*after][2:] if after[key]["arrays"]}
    assert repr(after) == str(after)


def explained(monkeypatch, array, **keys):
    """Explain an array of which the C half tells this as well."""
    told = _core.describe(array)
    with monkeypatch.context() as patch:
        patch.setattr(_core, "describe", lambda array: {**told, **keys})
        return samemap.explain(array)


@pytest.mark.needs_maps
@pytest.mark.parametrize(
    ("writes", "words"),
    [
        ("file", "writes    reach the file and everybody"),
        ("shared", "writes    are seen by everybody"),
        ("task", "neither the file nor the caller sees them"),
        ("none", "writes    are not possible"),
    ],
)
def test_who_sees_writes_in_words(monkeypatch, path, writes, words):
    """Each case is told; memory without a file is told without one."""
    told = explained(monkeypatch, np.memmap(path, np.float64, "r"), writes=writes)
    assert told["writes"] == writes
    assert words in str(told)
    told = str(explained(monkeypatch, np.zeros(3), writes=writes))
    [line] = [line for line in told.split("\n") if line.startswith("writes")]
    assert ("file" in line) == (writes == "file")


@pytest.mark.needs_maps
def test_unlinked_and_modified_in_words(monkeypatch, path):
    """An unlinked file is named and said to be so; modified bytes are numbered."""
    private = np.memmap(path, np.float64, "c")
    told = explained(monkeypatch, private, unlinked=True, modified_nbytes=4096)
    assert f"file      {path}, which is unlinked" in str(told)
    assert "4096 bytes of pages that were written travel along" in str(told)
    told = explained(monkeypatch, private, unlinked=False, modified_nbytes=0)
    assert "which is unlinked" not in str(told)
    assert "nothing travels along" in str(told)


@pytest.mark.needs_maps
def test_write_through_is_told(monkeypatch, path):
    """With `install(write_through=True)` a shared map's writes reach the file."""
    with path.open("r+b") as file:
        shared = np.frombuffer(mmap.mmap(file.fileno(), 0))
    private = np.memmap(path, np.float64, "c")
    assert explained(monkeypatch, shared, writes="task")["writes"] == "task"
    with samemap.enabled(write_through=True):
        for array, writes in ((shared, "file"), (private, "task")):
            told = explained(monkeypatch, array, writes="task")
            assert told["writes"] == writes
        assert explained(monkeypatch, shared, writes="none")["writes"] == "none"


@pytest.mark.needs_maps
def test_unknown_subclass_writes(monkeypatch, path):
    """What its class copies is the task's own."""
    array = np.memmap(path, np.float64, "r+").view(Own)
    assert explained(monkeypatch, array, writes="file")["writes"] == "task"
