"""Engines and pools beyond joblib's, and which of their tests run by default."""

from pathlib import Path

import numpy as np
import pytest

# Files whose tests need no extra and are quick, but for those that they mark.
QUICK = {"test_explain_engines.py", "test_pools.py", "test_queues.py"}


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Mark the tests of all other files of this folder."""
    for item in items:
        here = item.path.is_relative_to(Path(__file__).parent)
        if here and item.path.name not in QUICK:
            item.add_marker(pytest.mark.engines)


@pytest.fixture(scope="module")
def client():
    """Return a client of two workers, for which samemap is installed."""
    import distributed
    import samemap.dask

    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, dashboard_address=None
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        samemap.dask.install(client)
        yield client
        samemap.dask.uninstall()


@pytest.fixture
def memmap(memmap_path):
    """The float64 0, 1, ... 5999, writable to the file."""
    return np.memmap(memmap_path, "f8", "r+")
