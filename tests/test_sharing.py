"""One memory for all: what is written is seen, where it was written, by everyone."""

import mmap
import os
from pathlib import Path

import numpy as np
import pytest
import samemap
from joblib import Parallel, delayed, parallel_config
from support.waves import check_that_workers_meet

# From the 60 items of a file to a view of them.
LAYOUTS = {
    "reversed": lambda m: m[::-1],
    "transpose": lambda m: m.reshape(6, 10).T,
    "Fortran": lambda m: m.reshape((6, 10), order="F")[1:, ::3],
    "negative steps": lambda m: m.reshape(3, 4, 5)[::-2, :, 4:0:-1],
    "field": lambda m: m.view("c16").imag[::-1],
    "unaligned": lambda m: m.view("u1")[3:-5].view("f8")[::2],
    "plain": lambda m: np.asarray(m).reshape(10, 6)[2:, ::-1].T,
    "diagonal": lambda m: np.einsum("ii->i", m[:36].reshape(6, 6)),
}


@pytest.fixture
def path(raw_file):
    return raw_file(np.arange(60, dtype=np.float64))


@pytest.fixture
def array(path):
    return np.memmap(path, np.float64, "r+")


def write(array, value):
    array[...] = value


def count_upwards(array):
    array[...] = np.arange(1000, 1000 + array.size).reshape(array.shape)


@pytest.mark.needs_maps
@pytest.mark.parametrize("name", LAYOUTS)
def test_writes_land_in_their_place(send, array, name):
    """A worker's writes are in the caller's array, there and nowhere else."""
    view_of = LAYOUTS[name]
    expected = np.array(array)
    count_upwards(view_of(expected))
    send(count_upwards, [view_of(array)])
    np.testing.assert_array_equal(array, expected)


@pytest.mark.needs_maps
def test_workers_see_each_other(send, array):
    """Two workers write into one map through views of their own, and meet."""
    array[:] = 0
    check_that_workers_meet(send, array)


def relation(first, second):
    """Tell whether the first shares memory, and sees what the second writes."""
    shared = np.shares_memory(first, second)
    second[...] = -1
    return shared, np.array(first)


@pytest.mark.needs_maps
def test_views_share_memory_in_the_worker(send, array):
    """Views of one map in one task are views of one map there too."""
    [(shared, found)] = send(relation, [array[::-1], array.reshape(6, 10)[2:4]])
    assert shared
    assert found.tolist() == array[::-1].tolist()
    assert (array[20:40] == -1).all()
    assert (array == -1).sum() == 20


def mappings(path):
    """Count the maps of a file in this process, and its open descriptors."""
    maps = Path("/proc/self/maps").read_text().splitlines()
    descriptors = [os.path.realpath(fd) for fd in Path("/proc/self/fd").iterdir()]
    return sum(line.endswith(str(path)) for line in maps), descriptors.count(str(path))


def mappings_while_held(path, *arrays):
    return mappings(path)


@pytest.mark.needs_maps
def test_many_views_are_one_mapping(backend, memmap_path):
    """1,500 views in one task: one map, and at most the one descriptor of it."""
    with Parallel(n_jobs=2, backend=backend) as parallel:
        # Mapped after the workers started: forked ones inherit what is mapped.
        array = np.memmap(memmap_path, np.float64, "r")
        views = [array[i::3][:: 1 - 2 * (i % 2)] for i in range(1500)]
        found = parallel([delayed(mappings_while_held)(memmap_path, *views)])
    [(maps, descriptors)] = found
    assert maps == 1
    assert descriptors <= 1


@pytest.mark.needs_maps
def test_no_mapping_outlives_its_arrays(backend, memmap_path):
    """After the task a worker maps the file no more."""
    with Parallel(n_jobs=2, backend=backend, batch_size=1) as parallel:
        array = np.memmap(memmap_path, np.float64, "r")
        held = parallel([delayed(mappings_while_held)(memmap_path, array)] * 4)
        del array
        after = parallel([delayed(mappings)(memmap_path)] * 4)
    assert [maps for maps, _ in held] == [1] * 4
    assert after == [(0, 0)] * 4


def use(array):
    """Do with a memmap what programs do with it."""
    array.flush()
    assert hasattr(array.base, "flush")
    return [
        (type(found).__name__, np.array(found), repr(found), str(found))
        for found in [array, array.copy(), array + 1, array.sum(), array[1], array * 2]
    ]


@pytest.mark.needs_maps
@pytest.mark.parametrize("name", ["reversed", "transpose", "negative steps"])
def test_use_as_memmap(send, array, name):
    """flush, copy, arithmetic, reductions, items and printing as in the caller."""
    view = LAYOUTS[name](array)
    for found, expected in zip(send(use, [view])[0], use(view), strict=True):
        np.testing.assert_equal(found, expected)


@pytest.mark.needs_maps
def test_flush_of_the_whole_map(send, array):
    """The memmap itself has the map that `flush` needs, and a root as its base."""
    assert send(flush_whole, [array]) == [(True, True, None)]


@pytest.mark.parametrize(
    ("name", "value"), [("filename", "other"), ("offset", 77), ("mode", "r")]
)
def test_attributes_are_those_of_the_view(send, array, name, value):
    """Attributes that somebody has set are kept, beside those of other views."""
    view = array[:]
    setattr(view, name, value)
    expected = [attributes(each) for each in (array, view, array)]
    assert send(attributes_of_all, [array, view, array]) == [expected]


def attributes(array):
    return array.filename, array.offset, array.mode


def attributes_of_all(*arrays):
    return [attributes(array) for array in arrays]


def test_made_once(send, tmp_path):
    """A file made by the caller is opened by the worker as one that exists."""
    array = np.memmap(tmp_path / "new", np.float64, "w+", shape=(3,))
    assert array.mode == "w+"
    [[(_, _, mode)]] = send(attributes_of_all, [array])
    assert mode == "r+"


def flush_whole(array):
    root = array.base
    root_has_map = type(root) is np.memmap and root.base is root._mmap is array._mmap
    return array._mmap is not None, root_has_map, array.flush()


def two_views(array):
    """A view of a view, and another one."""
    return array[2:][::-1], array.T


@pytest.mark.needs_maps
def test_results_are_views_of_the_file(send, array):
    """Views of an np.memmap that come back are views of the file, on one map of
    their own: a write is seen by everybody, and the caller may close its map."""
    array = array.reshape(6, 10)
    [(first, second)] = send(two_views, [array])
    assert not np.shares_memory(first, array)
    assert np.shares_memory(first, second)
    first[0, 0] = 77
    assert array[5, 0] == second[0, 5] == 77
    assert type(first) is np.memmap
    array.base.base.close()
    assert first[0, 0] == 77


@pytest.mark.needs_maps
def test_results_of_several_tasks(send, array):
    """So are the results of all tasks, and their results when sent again."""
    results = [r for pair in send(two_views, *[[array[:20]]] * 4) for r in pair]
    results += [r for pair in send(two_views, *[[r] for r in results]) for r in pair]
    assert len(results) == 24
    array[:20] = np.arange(500, 520)
    for result in results:
        assert not np.shares_memory(result, array)
        assert set(result) <= set(range(500, 520))


@pytest.mark.needs_maps
def test_results_in_other_maps_are_copies(send, path, array):
    """A result in a map that is no np.memmap is memory of the caller's own."""
    with path.open("r+b") as file:
        plain = np.frombuffer(mmap.mmap(file.fileno(), 0), np.float64)
    [(first, second)] = send(two_views, [plain.reshape(6, 10)])
    first[...] = -1
    assert second.tolist() == plain.reshape(6, 10).T.tolist()
    assert array.tolist() == list(range(60))
    plain[:] = 5
    assert second[0, 1] == 10


def open_view(path):
    return np.memmap(path, np.float64, "r+")[::-1]


@pytest.mark.needs_maps
def test_result_on_a_map_of_the_worker(send, path):
    """A file mapped by the worker only comes back as a map of that file."""
    [result] = send(open_view, [path])
    assert result.tolist() == list(range(59, -1, -1))
    result[0] = 77
    assert np.fromfile(path)[-1] == 77


@pytest.mark.needs_pagemap
def test_private_views_alias_each_other(send, path):
    """Two views of a private map share its pages there; the file has the old."""
    array = np.memmap(path, np.float64, "c")
    before = np.fromfile(path)
    [(shared, found)] = send(relation, [array[::-1], array[10:20]])
    assert shared
    assert (found[40:50] == -1).all()
    np.testing.assert_array_equal(array, before)
    np.testing.assert_array_equal(np.fromfile(path), before)


@pytest.mark.needs_maps
def test_private_maps_do_not_alias(send, path):
    """Two private maps of one file are two in the worker."""
    first, second = (np.memmap(path, np.float64, "c") for _ in range(2))
    [(shared, found)] = send(relation, [first, second])
    assert not shared
    assert found.tolist() == first.tolist()


@pytest.mark.needs_maps
def test_private_and_shared_maps_do_not_alias(send, path, array):
    """A private map shares nothing with a shared one of the same file."""
    private = np.memmap(path, np.float64, "c")
    private[0] = 42
    [(shared, found)] = send(relation, [array, private])
    assert not shared
    assert found.tolist() == array.tolist() == list(range(60))


def add_up(*arrays):
    return [float(array.sum()) for array in arrays]


def test_modified_private_pages(send, path, pagemap):
    """What the caller changed in a private map arrives, by every view of it."""
    array = np.memmap(path, np.float64, "c")
    array[::7] = 1000
    views = [array, array[::-1], array.reshape(6, 10).T, array[7:8]]
    assert send(add_up, views) == [add_up(*views)]
    assert np.fromfile(path).tolist() == list(range(60))


def fan_out(array):
    """In a worker, start workers of its own, one for each row."""
    with parallel_config(backend="loky", inner_max_num_threads=1):
        Parallel(n_jobs=2)(delayed(write)(row, i) for i, row in enumerate(array))
    return array


@pytest.mark.needs_maps
def test_workers_of_workers(send, array):
    """Views of the view, sent on by a worker, are views of the caller's file still."""
    view = array.reshape(6, 10).T[::-5]
    [result] = send(fan_out, [view])
    assert view.tolist() == result.tolist() == [[0] * 6, [1] * 6]
    view[0] = 7
    assert result.tolist() == [[7] * 6, [1] * 6]


def try_to_write(array):
    """Set the flag and write; return the array when that was refused."""
    try:
        array.setflags(write=True)
    except ValueError:
        return array
    array[...] = -1
    return None


@pytest.mark.needs_maps
@pytest.mark.parametrize("view_of", [lambda m: m, np.asarray, lambda m: m[::-1].T])
def test_read_only_stays_so(send, path, view_of):
    """A read-only map can't be written to, by the worker or in the result."""
    array = view_of(np.memmap(path, np.float64, "r"))
    [result] = send(try_to_write, [array])
    assert not result.flags.writeable
    assert try_to_write(result) is result
    assert np.fromfile(path).tolist() == list(range(60))


@pytest.mark.needs_maps
def test_flag_taken_away_by_hand(send, array):
    """A read-only view of a writable map is read-only, until the flag is set."""
    view = array[10:20]
    view.flags.writeable = False
    assert send(is_writeable, [view, array]) == [(False, True)]
    assert send(try_to_write, [view]) == [None]
    assert (array[10:20] == -1).all()


def is_writeable(*arrays):
    return tuple(array.flags.writeable for array in arrays)


@pytest.fixture
def large(tmp_path):
    """A sparse gigabyte."""
    return np.memmap(tmp_path / "large", np.float64, "w+", shape=(1 << 14, 1 << 13))


@pytest.mark.needs_maps
def test_message_is_small(large):
    """A gigabyte in less than a kilobyte, and a view more in tens of bytes."""
    one = len(samemap.dumps([large.T]))
    many = len(samemap.dumps([large.T, *(large[i::2, ::-1] for i in range(100))]))
    assert one < 1000
    assert many - one < 100 * 60


def look_around(folder, array):
    """The item in the corner, the files in a folder, the pages of the map in memory."""
    corner = array[0, 0]
    files = [path for path in Path(folder).rglob("*") if path.is_file()]
    return corner, files, resident_nbytes(array.filename)


def resident_nbytes(path):
    """Of all that this process maps of a file; a fork has its parent's memory, too."""
    nbytes, is_of_file = [], False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if "-" in line.split()[0]:
            is_of_file = line.endswith(str(path))
        elif is_of_file and line.startswith("Rss:"):
            nbytes.append(1024 * int(line.split()[1]))
    assert nbytes
    return sum(nbytes)


@pytest.mark.needs_maps
def test_no_copy_anywhere(send, large, tmp_path):
    """Far above `max_nbytes`: no temporary file, and no page that isn't read."""
    large[-1, -1] = 5
    folder = tmp_path / "temporary"
    folder.mkdir()
    [(corner, files, nbytes)] = send(
        look_around, (folder, large.T[::-1, ::-1]), temp_folder=folder, max_nbytes=100
    )
    assert corner == 5
    assert files == []
    assert nbytes < large.nbytes // 2
