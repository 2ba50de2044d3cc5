"""The fuzzers with a fixed budget; run alone they go on as long as asked."""

import gc

import fuzz_layout
import fuzz_message
import fuzz_pickle
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from joblib import Parallel, delayed
from samemap import _core
from support.equality import fingerprint
from support.scripts import run_script

pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.needs_maps,
    pytest.mark.needs_pagemap,
]

SETTINGS = settings(
    deadline=None,
    suppress_health_check=list(HealthCheck),
    database=None,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz")


@settings(SETTINGS, max_examples=100)
@given(seed=st.integers(0, 2**32))
def test_layouts(folder, seed):
    """Random views of random files arrive as they are, by either pickler."""
    fuzzer = fuzz_layout.Fuzzer(folder, seed)
    for _ in range(100):
        fuzzer.case()


def look(arrays):
    return [fingerprint(array) for array in arrays], arrays


def test_layouts_in_workers(folder, backend):
    """A sample goes through real workers, and comes back."""
    fuzzers = [fuzz_layout.Fuzzer(folder / f"{backend}{i}", i) for i in range(20)]
    batches = [fuzzer.views(30) for fuzzer in fuzzers]
    expected = [look(views)[0] for views in batches]
    results = Parallel(n_jobs=2, backend=backend)(delayed(look)(v) for v in batches)
    assert [found for found, _ in results] == expected
    assert [look(views)[0] for _, views in results] == expected


@pytest.mark.filterwarnings("ignore:invalid value encountered in cast")
@pytest.mark.filterwarnings("ignore:the matrix subclass:PendingDeprecationWarning")
@pytest.mark.parametrize("module", [fuzz_message, fuzz_pickle])
@settings(SETTINGS, max_examples=60)
@given(seed=st.integers(0, 2**32))
def test_messages(folder, module, seed):
    """Every damaged message is an exception, or arrays within their memory."""
    fuzzer = module.Fuzzer(folder, seed)
    for _ in range(500):
        fuzzer.case()
    assert fuzzer.found["ValueError"] > 0
    assert fuzzer.found["array"] > 0
    # A damaged pickle may be of a list that has itself and an open message in it: later
    # tests would find that.
    gc.collect()


def test_no_elements_are_no_work(tmp_path):
    """A message of nothing ends at once, however long its other axes are."""
    source = """
        import sys
        import numpy as np
        from samemap import _core
        from fuzz_message import layout_bytes
        from support.encoding import ALONE, PRIVATE
        from support.references import reference
        array = np.memmap(sys.argv[1], np.uint8, "w+", shape=(100,))
        array = np.memmap(sys.argv[1], np.uint8, "c")
        for flags in (PRIVATE, PRIVATE | ALONE):
            layout = layout_bytes(flags, 2, 0, [2**20, 2**20, 2**20, 0], [1, 1, 1, 1])
            source = _core.attach(*reference(array).values())
            print(_core.rebuild(source, layout, None, (None, b"")).size)
            pending = _core.pending(source, layout, None, (None, b""))
            print(_core.run(np.size, (pending,), {}))
    """
    assert run_script(source, tmp_path / "file", timeout=30) == "0\n" * 4


@pytest.mark.parametrize("change", ["bytes", "strides", "dtype"])
def test_fuzzer_finds_faults(folder, monkeypatch, change):
    """A byte, a stride or a dtype that is not as it was sent is told."""
    array = np.arange(12.0).reshape(3, 4)
    wrong = {
        "bytes": array + 1,
        "strides": np.asfortranarray(array),
        "dtype": array.astype(">f8"),
    }
    fuzzer = fuzz_layout.Fuzzer(folder, 0)
    fuzzer.views(1)
    fuzzer.check(array)
    monkeypatch.setattr(fuzz_layout.pickle, "loads", lambda data: wrong[change])
    with pytest.raises(AssertionError):
        fuzzer.check(array)


@pytest.mark.parametrize("change", ["bytes", "identity", "own"])
def test_fuzzer_finds_faults_of_batches(folder, monkeypatch, change):
    """A byte that isn't as it was sent, two arrays in place of one, and one array for
    several tasks."""

    def change_tasks(message):
        tasks = read_tasks(message)
        if change == "own":
            # One task that has the arguments of all.
            parts = tuple(args for _, args, _ in tasks if len(args) == 3)
            return _core.run(lambda *parts: parts, parts, {}) or tasks
        function, value = fuzz_layout.describe_and_write, int(change == "bytes")
        return [
            (function, (same + value, [same + 0]), {"x": same + value}) for _ in tasks
        ]

    same = np.zeros(3)
    read_tasks = fuzz_layout.read_tasks
    fuzzer = fuzz_layout.Fuzzer(folder / "batches", 0)
    fuzzer.views(1)
    views = [np.zeros(3) for _ in range(3)]
    fuzzer.check_tasks(views)
    monkeypatch.setattr(fuzz_layout, "read_tasks", change_tasks)

    def check_often():
        for _ in range(20):
            fuzzer.check_tasks(views)

    with pytest.raises(AssertionError):
        check_often()
