"""A CPython that was built to run without GIL."""

import sysconfig

import pytest
from support.scripts import run_script

pytestmark = pytest.mark.skipif(
    not sysconfig.get_config_var("Py_GIL_DISABLED"), reason="this CPython has a GIL"
)


def test_gil_is_back():
    """It is off with NumPy and joblib, and on, with a warning, with samemap."""
    source = """
        import sys
        import warnings
        import joblib
        import numpy
        print(sys._is_gil_enabled())
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            import samemap
        print(sys._is_gil_enabled())
        print(["samemap._core" in str(w.message) for w in caught])
    """
    assert run_script(source) == "False\nTrue\n[True]\n"
