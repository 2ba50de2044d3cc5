"""An np.memmap that has arrived is one like any other, for code that looks at it."""

import mmap
import os

import joblib._memmapping_reducer as stock_reducer
import numpy as np
import pytest
import samemap
from joblib import Parallel, delayed

COUNT = 4000
OFFSET = 512  # numbers of 8 bytes that come before, in the file

# Views that joblib alone sends rightly: contiguous ones, and those that go forward.
VIEWS = {
    "whole": lambda root: root,
    "part": lambda root: root[600:1200],
    "one": lambda root: root[7:8],
    "part of a part": lambda root: root[600:1200][5:],
    "strided": lambda root: root[601::3],
    "two-dimensional": lambda root: root[40:].reshape(-1, 40)[3:, 5:],
}


@pytest.fixture(params=["r", "r+", pytest.param("c", marks=pytest.mark.needs_pagemap)])
def root(request, raw_file):
    path = raw_file(np.arange(-OFFSET, COUNT))
    return np.memmap(path, int, request.param, offset=8 * OFFSET)


@pytest.fixture(params=["memmap", "ndarray"])
def views(request, root):
    """Views by name: memmaps, or ndarray views of these."""
    views = {name: view(root) for name, view in VIEWS.items()}
    if request.param == "ndarray":
        return {name: view.view(np.ndarray) for name, view in views.items()}
    return views


def identity(array):
    return array


def look(array):
    """What code learns that looks for the file of an array, as joblib's and dask's."""
    found = {"type": type(array)}
    base = array if isinstance(array.base, mmap.mmap) else array.base
    found["base"] = type(base)
    found["base's base"] = type(base.base)
    found["root"] = base.offset, str(base.filename), base.mode
    found["start"] = int(base.reshape(-1)[0])  # the data of a root are at its offset
    found["item in the file"] = item_in_file(array)
    if isinstance(array, np.memmap):
        found["own"] = array.offset, str(array.filename), array.mode
    return found


def item_in_file(array):
    """The offset that dask computes for its token of a view, in numbers."""
    offset = 0
    if hasattr(array.base, "ctypes"):
        offset = array.ctypes.data - array.base.ctypes.data
    root = array if isinstance(array, np.memmap) else array.base
    return (offset + root.offset) // 8


def check(found, views, root):
    for name, told in found.items():
        view = views[name]
        first = int(view.reshape(-1)[0])
        expected = 8 * OFFSET, str(root.filename), root.mode
        assert told["type"] is type(view), name
        assert told["base"] is np.memmap, name
        assert told["base's base"] is mmap.mmap, name
        assert told["root"] == expected, name
        assert told["start"] == 0, name
        assert told["item in the file"] == OFFSET + first, name
        if type(view) is np.memmap:
            assert told["own"] == expected, name


def test_argument_has_a_root(send, views, root):
    """The base of what a task gets is a root memmap, as it is in the caller."""
    if type(views["part"]) is np.memmap:  # an ndarray has the view before as its base
        check({name: look(view) for name, view in views.items()}, views, root)
    found = send(look, *[(view,) for view in views.values()])
    check(dict(zip(views, found, strict=True)), views, root)


def test_result_has_a_root(send, views, root):
    """So it is with what the caller gets back."""
    results = send(identity, *[(view,) for view in views.values()])
    found = dict(zip(views, map(look, results), strict=True))
    check(found, views, root)


def share_a_root(one, other):
    return one.base is other.base, len({item_in_file(one), item_in_file(other)})


def test_views_of_one_root(send, root):
    """Two views have one base and two places in the file, so dask two tokens."""
    task = root[:10], root[600:610]
    assert send(share_a_root, task, task) == [(True, 2)] * 2


def values_by_joblib(array):
    """As a task: what joblib's own reducer finds for an array."""
    backing = stock_reducer._get_backing_memmap(array)
    assert isinstance(backing, np.memmap)
    rebuild, arguments = stock_reducer._reduce_memmap_backed(array, backing)
    return rebuild(*arguments).tolist()


def test_joblibs_reducer_in_a_worker(send, views):
    """joblib's own code, in a worker, finds the place of an array in the file."""
    found = send(values_by_joblib, *[(view,) for view in views.values()])
    for name, told in zip(views, found, strict=True):
        assert told == views[name].tolist(), name


def values_from_stock_workers(arrays):
    """As a task: send what came by joblib alone to workers of one's own."""
    with samemap.disabled():
        tasks = [delayed(np.ndarray.tolist)(array) for array in arrays]
        return Parallel(2, "loky")(tasks)


def test_nested_joblib_alone(views):
    """A worker sends what it got with joblib alone: right values."""
    arrays = list(views.values())
    tasks = [delayed(values_from_stock_workers)(arrays)] * 2
    expected = [array.tolist() for array in arrays]
    assert Parallel(2, "loky")(tasks) == [expected] * 2


def test_result_sent_by_joblib_alone(send, views):
    """The caller sends a result on with joblib alone: right values."""
    results = send(identity, *[(view,) for view in views.values()])
    with samemap.disabled():
        found = send(np.ndarray.tolist, *[(result,) for result in results])
    for name, told in zip(views, found, strict=True):
        assert told == views[name].tolist(), name


def test_result_sent_again(send, views):
    """And with samemap, back and forth."""
    results = list(views.values())
    for _ in range(3):
        results = send(identity, *[(result,) for result in results])
    for name, result in zip(views, results, strict=True):
        assert result.tolist() == views[name].tolist(), name
        assert item_in_file(result) == OFFSET + int(result.reshape(-1)[0]), name


def flush_through_root(array):
    """As a task: write, and flush by the base, as code does that has a view only."""
    array[...] = -1
    array.base.flush()
    return array.base.filename == array.filename


def test_flush(send, raw_file):
    """The base of a view can flush, which an mmap alone can't for others' pages."""
    root = np.memmap(raw_file(np.arange(COUNT)), int, "r+")
    assert send(flush_through_root, (root[10:20],), (root[20:30],)) == [True] * 2
    assert set(np.fromfile(root.filename, int)[10:30]) == {-1}


def describe_record(data):
    """What a FITS table knows of itself, and what it says of its columns."""
    attributes = {name: repr(type(value)) for name, value in vars(data).items()}
    columns = {name: data[name].tolist() for name in data.names}
    return attributes, columns, data.columns.names, data.columns.formats, repr(data)


@pytest.fixture
def table(tmp_path):
    """A FITS table of numbers, text and unsigned numbers."""
    fits = pytest.importorskip("astropy.io.fits")
    columns = [
        fits.Column("number", "K", array=np.arange(6)),
        fits.Column("text", "3A", array=np.array(list("abcdef"))),
        fits.Column("unsigned", "J", bzero=2**31, array=np.arange(6, dtype="u4")),
    ]
    path = tmp_path / "table.fits"
    fits.BinTableHDU.from_columns(columns).writeto(path)
    return fits.open(path)[1].data


@pytest.mark.parametrize(
    "view",
    [
        lambda table: table,
        lambda table: table[2:5],
        lambda table: table[::2],
        lambda table: table.copy(),
    ],
    ids=["whole", "part", "strided", "in memory"],
)
@pytest.mark.parametrize("max_nbytes", ["1M", 1])
def test_fits_table(send, table, view, max_nbytes):
    """A FITS table has what it has by joblib alone, and all of its ``__dict__``."""
    data = view(table)
    tasks = [(data,)] * 2
    with samemap.disabled():
        (_, *stock), _ = send(describe_record, *tasks)
    expected = [(describe_record(data)[0], *stock)] * 2
    assert send(describe_record, *tasks, max_nbytes=max_nbytes) == expected
    results = send(identity, *tasks, max_nbytes=max_nbytes)
    assert [describe_record(result) for result in results] == expected


@pytest.mark.needs_maps
def test_path_of_a_renamed_file(send, root):
    """The root keeps the name that the program gave; its data are the file's."""
    name = str(root.filename)
    os.rename(name, name + ".renamed")
    for told in send(look, (root[600:],), (root[600:],)):
        assert told["root"] == (8 * OFFSET, name, root.mode)
        assert told["item in the file"] == OFFSET + 600
