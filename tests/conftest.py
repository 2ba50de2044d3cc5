"""Real workers of both pools, and files to map."""

import contextlib
import mmap
import os

import joblib.pool
import numpy as np
import pytest
import samemap  # noqa: F401  (the import installs)
from joblib import Parallel, delayed
from joblib.externals.loky import get_reusable_executor
from samemap import _core
from support import machine
from support.kinds import COUNT, KINDS

# Files of tests whose programs, files and pools take minutes together.
LONG = {
    f"test_{name}.py"
    for name in (
        "arrived_memmap",
        "cli",
        "doctor",
        "examples",
        "export",
        "export_arguments",
        "fates",
        "fields",
        "fuzz",
        "identity",
        "images",
        "in_memory",
        "late",
        "loading_errors",
        "little_room",
        "ordinary_user",
        "results_own",
        "shared",
        "verify",
    )
}


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Mark the tests of these files."""
    for item in items:
        if item.path.name in LONG:
            item.add_marker(pytest.mark.long)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    """Skip a test whose claim can't hold in this circumstance."""
    for name, (holds, reason) in machine.NEEDS.items():
        if not holds and item.get_closest_marker(name) is not None:
            pytest.skip(reason)


@pytest.fixture(scope="session", autouse=True)
def no_workers_left():
    """Stop loky's reusable executor, which would outlive the tests."""
    yield
    get_reusable_executor().shutdown(wait=True)


@pytest.fixture(scope="session", autouse=True)
def pools_end():
    """Let pools of multiprocessing end whose workers are killed.

    A worker that is killed while it sends a result keeps the queue's lock, for which
    `Pool.terminate` then waits for ever; with stock joblib, too. Here not so long.
    """
    queue, caller = joblib.pool.CustomizablePicklingQueue, os.getpid()
    make = queue._make_methods

    def _make_methods(self):
        make(self)
        stock = self.put

        def put(obj):
            if os.getpid() != caller:
                return stock(obj)
            held = self._wlock.acquire(timeout=20)
            try:
                return self._send(obj)
            finally:
                if held:
                    self._wlock.release()

        self.put = put

    queue._make_methods = _make_methods
    yield
    queue._make_methods = make


@pytest.fixture(params=["loky", "multiprocessing"])
def backend(request):
    """Both pools of processes that joblib has."""
    return request.param


@pytest.fixture
def send(backend):
    """Return a function that runs one task per tuple of arguments in workers."""

    def send(function, *tasks, **options):
        parallel = Parallel(n_jobs=2, backend=backend, **options)
        return parallel([delayed(function)(*args) for args in tasks])

    return send


@pytest.fixture(
    params=[
        pytest.param("ioctl", marks=pytest.mark.needs_procmap_query),
        pytest.param("text", marks=pytest.mark.needs_maps),
    ]
)
def map_table(request):
    """The ways to ask which file is mapped; a script sets its own by this name."""
    _core.set_map_table(request.param)
    yield request.param
    _core.set_map_table("auto")


@pytest.fixture(params=["auto", "entries"])
def pagemap(request):
    """The ways to learn which pages are modified: Linux 6.7's, and the older."""
    _core.set_pagemap(request.param)
    yield request.param
    _core.set_pagemap("auto")


@pytest.fixture
def raw_file(tmp_path):
    """Return a function that saves an array and returns the path."""

    def raw_file(array, name="data"):
        path = tmp_path / name
        np.asarray(array).tofile(path)
        return path

    return raw_file


@pytest.fixture
def make_file(tmp_path):
    """Return a function that makes a file of one byte, repeated, by default 4 pages."""

    def make_file(name, value, nbytes=4 * mmap.PAGESIZE):
        path = tmp_path / name
        path.write_bytes(bytes([value]) * nbytes)
        return path

    return make_file


@pytest.fixture
def memmap_path(raw_file):
    """Return the path of a file with the float64 0, 1, ... 5999."""
    return raw_file(np.arange(6000, dtype=np.float64))


@pytest.fixture
def make(tmp_path):
    """Return a function that makes an array of a kind, with a file of its own."""
    with contextlib.ExitStack() as stack:

        def make(name):
            missing = KINDS[name].missing()
            if missing:
                pytest.skip(missing)
            return KINDS[name].make(tmp_path / "numbers", COUNT, stack)

        yield make
