"""Checks on arrival, on request."""

import mmap
import pickle

import numpy as np
import pytest
import samemap
from joblib import Parallel, delayed
from samemap import _core, _verify

LEVELS = ["layout", "data"]


@pytest.fixture
def array(tmp_path):
    array = np.memmap(tmp_path / "data", np.int16, "w+", shape=(6, 4))
    array[:] = np.arange(24).reshape(6, 4)
    return array


def total(*arrays):
    return [int(a.sum()) for a in arrays]


@pytest.mark.parametrize("level", LEVELS)
def test_good_arrays_pass(array, level, backend):
    """Views, copies and arrays in memory arrive as they were sent."""
    views = [array.T[::-1], np.asarray(array)[:, ::-2], np.arange(5), array[:0]]
    with samemap.enabled(verify=level):
        results = Parallel(n_jobs=2, backend=backend)([delayed(total)(*views)] * 2)
    assert results == [total(*views)] * 2


def same(array):
    return array


def strided_and_gone(path):
    """As a task: a result that can only be copied, without its gaps."""
    array = np.memmap(path, np.int16, "w+", shape=(50, 40), order="F")
    array[:] = np.arange(2000).reshape(50, 40)
    path.unlink()
    return array[:, ::2]


@pytest.mark.parametrize("level", LEVELS)
def test_good_results_pass(tmp_path, level, backend):
    """joblib's dump comes back as an ndarray; a copy has other strides."""
    large = np.arange(300.0)
    with samemap.enabled(verify=level):
        parallel = Parallel(n_jobs=2, backend=backend, max_nbytes=1000)
        [result] = parallel([delayed(same)(large)])
        [copy] = parallel([delayed(strided_and_gone)(tmp_path / "own")])
    assert type(result) is np.ndarray
    np.testing.assert_array_equal(result, large)
    np.testing.assert_array_equal(copy, np.arange(2000).reshape(50, 40)[:, ::2])


@pytest.mark.needs_maps
def test_difference_reaches_the_caller(array, tmp_path, backend):
    """Bytes that change on the way: a typed error names array and difference."""

    with (
        samemap.enabled(verify="data"),
        pytest.raises(
            samemap.VerificationError, match=r"numpy\.memmap of shape \(6, 4\).*crc32"
        ),
    ):
        Parallel(n_jobs=2, backend=backend)(
            [delayed(total)(array, Writer(tmp_path / "data"))]
        )


@pytest.mark.needs_maps
@pytest.mark.parametrize(
    "whole",
    [lambda a: a.view(np.recarray), lambda a: np.ma.MaskedArray(a, a > 3)],
    ids=["recarray", "masked"],
)
def test_difference_in_a_part(array, tmp_path, backend, whole):
    """Also where another object is built of the array that differs."""
    with samemap.enabled(verify="data"), pytest.raises(samemap.VerificationError):
        Parallel(n_jobs=2, backend=backend)(
            [delayed(total)(whole(array), Writer(tmp_path / "data"))]
        )


class Writer:
    """Loading it changes the file behind the array's back."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return change, (self.path,)


def change(path):
    with path.open("r+b") as file:
        file.write(b"\xff")
    return np.int64(0)


@pytest.mark.needs_pagemap
def test_difference_in_an_own_array(tmp_path, backend):
    """Also where the array is one that the task makes its own when it starts."""
    path = tmp_path / "data"
    np.arange(24, dtype=np.int16).tofile(path)
    private = np.memmap(path, np.int16, "c", shape=(6, 4))
    with samemap.enabled(verify="data"):
        tasks = [delayed(total)(private, private[::-1], np.arange(3))] * 2
        parallel = Parallel(n_jobs=2, backend=backend, batch_size=2)
        assert parallel(tasks) == [[276, 276, 3]] * 2
        with pytest.raises(samemap.VerificationError, match=str(path)):
            parallel([delayed(total)(private, Writer(path))] * 2)


class Holder:
    """An object through which several tasks may get to an array."""

    def __init__(self, array):
        self.array = array

    def total(self):
        return int(self.array.sum())


@pytest.mark.needs_pagemap
@pytest.mark.parametrize("level", LEVELS)
def test_deep_arrays_pass(tmp_path, level, backend):
    """An array that arrives read-only, as what is in an object may, is no error."""
    path = tmp_path / "data"
    np.arange(300, dtype=np.int16).tofile(path)
    with path.open("r+b") as file:
        array = np.frombuffer(mmap.mmap(file.fileno(), 0), np.int16)
    holder = Holder(array)
    with samemap.enabled(verify=level):
        parallel = Parallel(n_jobs=2, backend=backend, max_nbytes=100)
        assert parallel([delayed(holder.total)()] * 2) == [int(array.sum())] * 2


@pytest.mark.needs_maps
@pytest.mark.parametrize(
    ("name", "other"),
    [
        ("type", "numpy.matrix"),
        ("dtype", np.dtype(">i2")),
        ("shape", (4, 6)),
        ("strides", (2, 8)),
        ("writeable", False),
        ("aligned", False),
        ("contiguous", (False, True)),
        ("crc32", 1),
    ],
)
def test_every_property_is_compared(array, name, other):
    """A difference in each of them is found and named."""
    verified = _verify.Verified(_core.Reducer().reduce, "data")
    rebuild, args, expected, _ = verified(array)[1]
    attach, reference = args[0][0].__reduce__()
    face = (attach(*reference), *args[0][1:])
    assert _verify.checked(rebuild, (face, *args[1:]), expected) is not None
    with pytest.raises(samemap.VerificationError, match=f"{name} is "):
        _verify.checked(rebuild, (face, *args[1:]), {**expected, name: other})


@pytest.mark.needs_maps
def test_layout_does_not_read(array, tmp_path):
    """The level "layout" is not about bytes: changed ones pass."""
    message = samemap.dumps(array, verify="layout")
    array[:] = 7
    assert (samemap.loads(message) == 7).all()
    message = samemap.dumps(array, verify="data")
    array[0, 0] = 8
    with pytest.raises(samemap.VerificationError):
        samemap.loads(message)


def test_checksum_sees_padding(tmp_path):
    """Records count byte by byte, the gaps between their fields included."""
    dtype = np.dtype([("a", "i1"), ("b", "i8")], align=True)
    records = np.zeros(5, dtype)
    before = _verify.checksum(records[::2])
    records.view(np.uint8)[3] = 1
    assert _verify.checksum(records[::2]) != before
    assert _verify.checksum(records[1::2]) == _verify.checksum(np.zeros(2, dtype))


def test_checksum_in_steps(monkeypatch):
    """A large array is summed in parts with the same result."""
    array = np.arange(1000).reshape(2, 5, 100)[:, ::-1]
    whole = _verify.checksum(array)
    monkeypatch.setattr(_verify, "_CHUNK", 300)
    assert _verify.checksum(array) == whole


@pytest.mark.needs_maps
@pytest.mark.parametrize("backend", ["loky", "multiprocessing"])
def test_the_file_is_named(array, tmp_path, backend):
    """Which of many arrays was it? The error has the path, in words and as such."""
    path = tmp_path / "data"
    with (
        samemap.enabled(verify="data"),
        pytest.raises(samemap.VerificationError, match=str(path)) as caught,
    ):
        Parallel(n_jobs=2, backend=backend)(
            [delayed(total)(np.asarray(array)[:2], Writer(path))]
        )
    assert caught.value.path == str(path)


def test_no_file_to_name():
    """An array in memory has no file; the error can be pickled all the same."""
    array = np.arange(4)
    message = samemap.dumps(array, verify="data")
    at = message.rindex(array.tobytes())
    with pytest.raises(samemap.VerificationError, match="ordinary memory") as caught:
        samemap.loads(message[:at] + b"\xff" + message[at + 1 :])
    error = pickle.loads(pickle.dumps(caught.value))
    assert (str(error), error.path) == (str(caught.value), None)
    error = pickle.loads(pickle.dumps(samemap.VerificationError("other", "/a/b")))
    assert (str(error), error.path) == ("other", "/a/b")
