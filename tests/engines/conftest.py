"""Engines and pools beyond joblib's, and which of their tests run by default."""

from pathlib import Path

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
