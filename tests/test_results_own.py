"""Results are the caller's own: whatever happens to the memory they came from."""

from contextlib import ExitStack

import joblib
import numpy as np
import pytest
from joblib import Parallel, delayed
from support.batches import run_in_batches
from support.contract_programs import MAPS, identity
from support.fresh_interpreter import run_function
from support.kinds import KINDS

PROGRAMS = "support.contract_programs"

LIBRARIES = {
    "close_las": "laspy",
    "close_netcdf": "scipy",
    "feather": "pyarrow",
    "fits": "astropy.io.fits",
    "fits table": "astropy.io.fits",
}


def skip_without_library(name):
    if name in LIBRARIES:
        pytest.importorskip(LIBRARIES[name])


@pytest.mark.parametrize(
    "program",
    [
        "close_memmap",
        "close_private_memmap",
        "close_mmap",
        "close_mmap_under_its_array",
        "close_shared_memory",
        "close_las",
        "close_netcdf",
    ],
)
def test_closed_by_the_caller(backend, tmp_path, program):
    """Results are used after the caller has closed what its arguments lay on."""
    skip_without_library(program)
    assert run_function(PROGRAMS, program, backend, tmp_path) == "right\n"


@pytest.mark.parametrize("how", MAPS)
def test_scratch_file(backend, tmp_path, how):
    """A file that each task writes, maps and returns: right values for each."""
    skip_without_library(how)
    arguments = backend, tmp_path, how
    assert run_function(PROGRAMS, "scratch_file", *arguments) == "right\n"


def test_file_removed_with_its_array(backend, tmp_path):
    """A result doesn't ask for a file that goes with the worker's array."""
    arguments = backend, tmp_path
    assert run_function(PROGRAMS, "removed_file", *arguments) == "right\n"


@pytest.mark.parametrize("kind", ["anonymous", "memfd", "file"])
def test_buffer_refilled_by_the_worker(backend, tmp_path, kind):
    """A buffer that a worker fills again leaves the results before alone."""
    name, arguments = "refilled_by_the_worker", (backend, tmp_path, kind)
    assert run_function(PROGRAMS, name, *arguments) == "right\n"


COUNT = 1000


@pytest.fixture(
    params=[
        "memory",
        "memmap c",
        "mmap",
        "mmap, ACCESS_COPY",
        "FITS image, update",
        "SharedMemory",
        "MaskedArray on mmap",
    ]
)
def array(request, tmp_path):
    """An array that a task's writes are not to reach; none but the test's own does."""
    if reason := KINDS[request.param].missing():
        pytest.skip(reason)
    with ExitStack() as stack:
        arrays = [KINDS[request.param].make(tmp_path / "numbers", COUNT, stack)]
        yield arrays
        arrays.clear()


def numbers(array):
    return np.array(array.tolist()).reshape(-1).astype(int)


@pytest.mark.parametrize("batch_size", [1, 10])
@pytest.mark.parametrize("max_nbytes", ["1M", 100])
def test_argument_refilled_after_the_call(backend, array, batch_size, max_nbytes):
    """What the caller does to the argument of a task doesn't move the result."""
    tasks = [delayed(identity)(array[0]) for _ in range(20)]
    results = run_in_batches(backend, batch_size, tasks, max_nbytes=max_nbytes)
    del tasks
    array[0][:] = -1
    for result in results:
        assert np.array_equal(numbers(result), np.arange(COUNT))


@pytest.mark.parametrize("batch_size", [1, 10])
def test_result_changed_after_the_call(backend, array, batch_size):
    """What the caller does to one result moves no other, nor the argument."""
    tasks = [delayed(identity)(array[0]) for _ in range(20)]
    results = run_in_batches(backend, batch_size, tasks)
    del tasks
    first = results[0]
    first += 1
    assert np.array_equal(numbers(first), np.arange(COUNT) + 1)
    for other in [*results[1:], array[0]]:
        assert np.array_equal(numbers(other), np.arange(COUNT))


@pytest.fixture
def mapped(raw_file):
    """Return a function that maps a file of 0, 1, ... as np.memmap."""
    path = raw_file(np.arange(COUNT))
    return lambda mode: np.memmap(path, int, mode)


def as_ndarray(array):
    return array.view(np.ndarray)


MODES = ["r", "r+", pytest.param("c", marks=pytest.mark.needs_pagemap)]


@pytest.mark.parametrize("convert", [identity, as_ndarray])
@pytest.mark.parametrize("mode", MODES)
def test_memmap_result(send, mapped, mode, convert):
    """A memmap comes back as one of its mode, on a map that is its own."""
    array = mapped(mode)
    results = send(convert, (array[100:300],), (array[200::-2],))
    for result, view in zip(results, (array[100:300], array[200::-2]), strict=True):
        assert type(result) is type(convert(view))
        assert result.tolist() == view.tolist()
        assert result.strides == view.strides
        assert result.flags.writeable == (mode != "r")
        assert not np.shares_memory(result, array)
        if type(result) is np.memmap:
            assert (result.filename, result.mode) == (array.filename, mode)


@pytest.mark.parametrize("convert", [identity, as_ndarray])
def test_writing_into_a_shared_result(send, mapped, convert):
    """`result += 1` on a memmap of mode r+ reaches the file and all its maps."""
    array = mapped("r+")
    first, second = send(convert, (array[:10],), (array,))
    first += 1
    expected = np.arange(COUNT)
    expected[:10] += 1
    for seen in (array, second, np.fromfile(array.filename, int)):
        assert np.array_equal(seen, expected)


def add_to_all(array, number):
    array += number
    return array


@pytest.mark.needs_pagemap
def test_private_result(backend, mapped):
    """A memmap of mode c comes back private, with the pages that its task wrote."""
    array = mapped("c")
    array[5] = 0
    tasks = [delayed(add_to_all)(array, i) for i in range(1, 21)]
    for batch_size in (1, 10):
        results = run_in_batches(backend, batch_size, tasks)
        for number, result in enumerate(results, 1):
            assert type(result) is np.memmap
            assert result.mode == "c"
            assert result[:7].tolist() == [number + i for i in (0, 1, 2, 3, 4, 0, 6)]
        results[0][:] = -1
        assert results[1][1] == 3
        assert array[:7].tolist() == [0, 1, 2, 3, 4, 0, 6]
    assert np.array_equal(np.fromfile(array.filename, int), np.arange(COUNT))


def two_views(array):
    return array[:10], [array[::-1], array.view(np.ndarray)[5:]]


@pytest.mark.parametrize("mode", MODES)
def test_views_in_one_result(send, mapped, mode):
    """Views of one memmap that come back together share memory, as they did there."""
    array = mapped(mode)
    for first, (second, third) in send(two_views, (array,), (array,)):
        assert np.shares_memory(first, second)
        assert np.shares_memory(first, third)
        assert not np.shares_memory(first, array)
        if mode != "r":
            first[5] = 77
            assert (second[-6], third[0]) == (77, 77)
            assert (array[5] == 77) == (mode == "r+")


def map_here(path, mode):
    """As a task: a memmap of the worker's own."""
    array = np.memmap(path, int, mode)
    if mode != "r":
        array[3] = -3
    return array[1:]


@pytest.mark.parametrize("mode", ["r", "r+", "c"])
def test_memmap_of_the_worker(send, raw_file, mode):
    """A memmap that the worker has made comes back as a memmap of that file."""
    path = raw_file(np.arange(COUNT))
    for result in send(map_here, (path, mode), (path, mode)):
        assert type(result) is np.memmap
        assert (str(result.filename), result.mode) == (str(path), mode)
        assert result[:4].tolist() == [1, 2, 3 if mode == "r" else -3, 4]
    number = np.fromfile(path, int)[3]
    assert number == (-3 if mode == "r+" else 3)


@pytest.mark.parametrize(
    "return_as",
    [
        "list",
        "generator",
        pytest.param(
            "generator_unordered",
            marks=pytest.mark.skipif(
                joblib.__version__.startswith("1.3."), reason="came with joblib 1.4"
            ),
        ),
    ],
)
def test_all_ways_to_return(mapped, return_as):
    """So it is when results are taken one by one."""
    array = mapped("r+")
    tasks = [delayed(identity)(array[i:]) for i in range(20)]
    results = list(Parallel(2, "loky", return_as=return_as)(tasks))
    assert sorted(len(result) for result in results) == list(range(COUNT - 19, 1001))
    assert not any(np.shares_memory(result, array) for result in results)
