"""What is no view of mapped memory keeps joblib's behaviour."""

import copyreg
import mmap
import os
import pickle
import subprocess
import sys
import textwrap
from multiprocessing.reduction import ForkingPickler
from pathlib import Path

import joblib._memmapping_reducer
import numpy as np
import pytest
import samemap
from joblib import Parallel, delayed
from joblib.pool import MemmappingPool
from support.equality import differences, fingerprint
from support.machine import DESCRIPTORS


@pytest.fixture
def mapped(memmap_path):
    return np.memmap(memmap_path, np.float64, "r+", shape=(60, 100))


def memory(mapped):
    """Arrays in memory: all layouts that joblib tells apart, large and small."""
    array = np.arange(6000.0).reshape(60, 100)
    return {
        "C": array,
        "F": np.asfortranarray(array),
        "strided": array[::-2, ::3],
        "read-only": np.broadcast_to(array, (2, 60, 100)),
        "ufunc of a memmap": mapped + 1,
        "small": np.arange(5),
        "small read-only": np.frombuffer(bytes(range(80)), np.int64),
        "small unaligned": np.zeros(41, np.uint8)[1:].view(np.float64),
        "small strided": np.arange(20)[::3],
        "swapped": np.arange(5, dtype=">i4")[::2],
        "0-d": np.array(5),
        "empty": array[:0],
        "objects": np.array([{}, "x", None]),
        "strings": np.array(["a", "bcd"] * 1000),
        "record": np.zeros(1000, [("a", "i1"), ("b", "f8")]),
    }


def describe(array):
    """What a program can tell of an array, wherever it was dumped."""
    filename = getattr(array, "filename", None)
    return {
        "type": type(array).__name__,
        "dtype": array.dtype,
        "strides": array.strides,
        "mode": getattr(array, "mode", None),
        "writeable": array.flags.writeable,
        "aligned": array.flags.aligned,
        "folder": filename and str(Path(filename).parent.parent),
        "items": array.tolist(),
    }


def describe_and_return(array):
    return describe(array), array


@pytest.mark.parametrize(
    ("options", "dumped"),
    [
        ({}, False),
        ({"max_nbytes": None}, False),
        ({"max_nbytes": 1000}, not DESCRIPTORS),
        ({"max_nbytes": 1000, "mmap_mode": "r"}, True),
        ({"max_nbytes": "20K", "mmap_mode": "r+"}, True),
        ({"max_nbytes": 1000, "mmap_mode": "c"}, True),
        ({"max_nbytes": 1000, "mmap_mode": "w+"}, True),
        ({"max_nbytes": "1M", "mmap_mode": "c"}, False),
    ],
)
def test_parameters_of_parallel(send, mapped, tmp_path, options, dumped):
    """max_nbytes, mmap_mode, temp_folder: arrays go and return as in joblib where a
    mode is named, or where that changes them as they are."""
    arrays = memory(mapped)
    tasks = [[array] for array in arrays.values()]
    options = {"temp_folder": str(tmp_path / "temporary"), **options}
    with samemap.disabled():
        stock = send(describe_and_return, *tasks, **options)
    found = send(describe_and_return, *tasks, **options)
    for (name, array), mine, theirs in zip(arrays.items(), found, stock, strict=True):
        sent = describe(array)
        for arrived, expected in [
            (mine[0], theirs[0]),
            (describe(mine[1]), describe(theirs[1])),
        ]:
            unlike = differences(arrived, expected)
            assert {key: arrived[key] for key in unlike} == {
                key: sent[key] for key in unlike
            }, name
    in_c_order = found[0][0]
    assert in_c_order["folder"] == (options["temp_folder"] if dumped else None)


def double(array):
    return np.multiply(array, 2)


@pytest.mark.parametrize("max_nbytes", [None, 1000])
@pytest.mark.parametrize("rows", [1, 60])
def test_memmap_without_mapping(send, mapped, max_nbytes, rows):
    """A copy of a memmap is a memmap by type, and memory: it travels as such."""
    copy = mapped[:rows].copy()
    assert type(copy) is np.memmap
    options = {"max_nbytes": max_nbytes, "mmap_mode": "r"}
    with samemap.disabled():
        [(stock, theirs)] = send(describe_and_return, [copy], **options)
    [(found, result)] = send(describe_and_return, [copy], **options)
    assert {**found, "folder": None} == {**stock, "folder": None}
    np.testing.assert_array_equal(result, mapped[:rows])
    assert type(result) is type(theirs)
    assert not np.shares_memory(result, mapped)


def test_results_of_arithmetic(send, mapped):
    """What a worker calculates from a memmap comes back writeable, in memory."""
    [result] = send(double, [mapped.T[::-1]])
    np.testing.assert_array_equal(result, 2 * mapped.T[::-1])
    assert type(result) is np.ndarray
    assert result.flags.writeable
    assert samemap.explain(result)["reason"] == "memory"


def count_loads(monkeypatch, function):
    """Count how often joblib reads in the caller what it has just dumped."""
    counted = []

    def load(*args, **kwargs):
        counted.append(args)
        return original(*args, **kwargs)

    original = joblib._memmapping_reducer.load
    with monkeypatch.context() as patch:
        patch.setattr(joblib._memmapping_reducer, "load", load)
        function()
    return len(counted)


@pytest.mark.parametrize("prewarm", [False, True, "auto"])
def test_prewarm(monkeypatch, tmp_path, prewarm):
    """prewarm reads the dumped file once in the caller, or not, as in joblib."""

    def run():
        options = {"max_nbytes": 100, "temp_folder": tmp_path, "prewarm": prewarm}
        pool = MemmappingPool(1, **options)
        try:
            assert pool.apply(np.sum, [np.ones(1000)]) == 1000
        finally:
            pool.terminate()

    with samemap.disabled():
        stock = count_loads(monkeypatch, run)
    assert count_loads(monkeypatch, run) == stock == bool(prewarm)


def box_of(*objects):
    box = np.empty(len(objects), object)
    for i, item in enumerate(objects):
        box[i] = item
    return box


def open_box(box):
    """Look at the arrays in nested boxes, and write into the middle one."""
    first, second, inner = box
    third = inner[0]["deep"]
    found = [fingerprint(array) for array in (first, second, third)]
    second[...] = -1
    return found, (first[0] == -1).all() and (third[0] == -1).all(), inner


@pytest.mark.needs_maps
@pytest.mark.parametrize("max_nbytes", [10, None])
def test_memmaps_in_object_arrays(send, mapped, max_nbytes):
    """They go by reference, however deep: one memory in the worker, one file back."""
    views = mapped[::-1], mapped[-1:], np.asarray(mapped)[::-1]
    box = box_of(views[0], views[1], box_of({"deep": views[2]}))
    sent = [fingerprint(array) for array in views]
    assert len(samemap.dumps(box)) < 1000
    [(found, seen, inner)] = send(open_box, [box], max_nbytes=max_nbytes)
    assert found == sent
    assert seen
    assert (mapped[-1] == -1).all()
    deep = inner[0]["deep"]
    assert not np.shares_memory(deep, mapped)
    mapped[-1] = 5
    assert (deep[0] == 5).all()


def test_memory_beside_memmaps(send, mapped):
    """In one task each goes its way: one dumped, one pickled, one referenced."""
    large, small = np.ones((60, 100)), np.ones(5)
    options = {"max_nbytes": 1000, "mmap_mode": "r"}
    [found] = send(types_and_modes, [large, small, mapped.T], **options)
    assert found == [("memmap", "r"), ("ndarray", None), ("memmap", "r+")]


@pytest.mark.needs_maps
def test_anonymous_map(send):
    """A map of no file is memory: a large one is dumped, a small one pickled."""
    array = np.frombuffer(mmap.mmap(-1, 1000), np.uint8)
    for max_nbytes, expected in [(999, ("memmap", "r")), (1000, ("ndarray", None))]:
        options = {"max_nbytes": max_nbytes, "mmap_mode": "r"}
        assert send(types_and_modes, [array], **options) == [[expected]]


@pytest.mark.needs_maps
@pytest.mark.parametrize("offset", range(0, 16, 4))
def test_copies_keep_their_alignment(offset):
    """A field that is aligned here is so there, as the copy starts as the map does."""
    fields = {"names": ["a", "b"], "formats": ["i4", "f8"], "offsets": [0, 4]}
    dtype = np.dtype({**fields, "itemsize": 16})
    array = np.frombuffer(mmap.mmap(-1, 1000), dtype, 5, offset)
    assert array["b"].flags.aligned == (offset in (4, 12))
    copy = samemap.loads(samemap.dumps(array))
    assert samemap.explain(array)["reason"] == "anonymous"
    assert copy["b"].flags.aligned == array["b"].flags.aligned


def types_and_modes(*arrays):
    return [(type(a).__name__, getattr(a, "mode", None)) for a in arrays]


def return_dumped(array):
    """A view of what joblib dumped: that file is gone when the call is over."""
    return array[::-1], {"again": array.T}


@pytest.mark.needs_maps
def test_dumped_arrays_are_returned_as_copies(send):
    """No result refers to joblib's temporary files."""
    array = np.arange(6000.0).reshape(60, 100)
    [(first, second)] = send(return_dumped, [array], max_nbytes=1000, mmap_mode="r")
    np.testing.assert_array_equal(first, array[::-1])
    np.testing.assert_array_equal(second["again"], array.T)
    maps = Path("/proc/self/maps").read_text()
    assert "joblib_memmapping_folder" not in maps


def test_dumped_arrays_are_returned_under_strict(send):
    """What is copied because it is joblib's file is not the user's mapped memory."""
    array = np.arange(6000.0)
    with samemap.enabled(strict=True):
        [(first, _)] = send(return_dumped, [array], max_nbytes=1000, mmap_mode="r")
    np.testing.assert_array_equal(first, array[::-1])


@pytest.mark.parametrize("fails", [False, True])
def test_nothing_is_left_behind(backend, tmp_path, fails):
    """The temporary folder is empty after the program, and no complaint of it."""
    source = f"""
        import os
        import numpy as np
        import samemap
        from joblib import Parallel, delayed
        from joblib.externals.loky import get_reusable_executor

        def work(*arrays):
            folder = os.environ["JOBLIB_TEMP_FOLDER"]
            assert any(files for _, _, files in os.walk(folder))
            if {fails}:
                raise KeyError("as wanted")
            return arrays

        if __name__ == "__main__":
            mapped = np.memmap("data", "f8", "w+", shape=(50, 60))
            tasks = [(np.ones((50, i)), mapped.T[::-1], mapped + i) for i in (20, 30)]
            try:
                Parallel(n_jobs=2, backend="{backend}", max_nbytes=1000, mmap_mode="r")(
                    delayed(work)(*arrays) for arrays in tasks
                )
            except KeyError:
                print("failed")
            get_reusable_executor().shutdown(wait=True)
    """
    folder = tmp_path / "temporary"
    folder.mkdir()
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(source))
    # Read to their ends, the pipes also tell that joblib's own clean-up is over.
    done = subprocess.run(
        [sys.executable, script],
        cwd=tmp_path,
        env={**os.environ, "JOBLIB_TEMP_FOLDER": str(folder)},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == ("failed\n" if fails else "")
    assert list(folder.rglob("*")) == []
    assert "memmapping_folder" not in done.stderr
    assert (tmp_path / "data").stat().st_size == 50 * 60 * 8


def test_plain_pickle_saves_the_data(mapped, memmap_path):
    """`pickle` is storage still: the array outlives its file."""
    expected = mapped.tolist()
    saved = [pickle.dumps(mapped.T, protocol) for protocol in range(2, 6)]
    del mapped
    memmap_path.unlink()
    for data in saved:
        assert pickle.loads(data).T.tolist() == expected


def test_nothing_is_registered_globally():
    """Neither copyreg nor multiprocessing's pickler knows of our reducers."""
    for table in (copyreg.dispatch_table, ForkingPickler._extra_reducers):
        found = [cls for cls in table if issubclass(cls, np.ndarray)]
        assert found == []


def test_generators_and_threads(mapped):
    """Other ways to run tasks: threads share arrays, generators give results."""
    [same] = Parallel(n_jobs=2, prefer="threads")([delayed(np.asanyarray)(mapped)])
    assert same is mapped
    results = Parallel(n_jobs=2, return_as="generator")(
        delayed(np.sum)(row) for row in mapped[::-1]
    )
    assert list(results) == mapped.sum(axis=1)[::-1].tolist()
