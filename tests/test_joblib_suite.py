"""joblib's own tests pass with samemap imported first."""

import re
import subprocess
import sys

import pytest

# Tests of joblib that can't pass, by name, with the reason.
DESELECTED = {}
if sys.version_info >= (3, 12):
    DESELECTED["test_main_thread_renamed_no_warning"] = (
        "counts warnings, and fails without samemap too: CPython 3.12 warns of fork in "
        "a process with threads, of which NumPy's BLAS has some"
    )

RUN = """
import sys
import samemap
import pytest

assert samemap.installed()
status = pytest.main(sys.argv[1:])
assert samemap.installed()
sys.exit(status)
"""


def run(module, folder):
    """Run one module of joblib's tests; None if it hangs."""
    options = ["-q", "-p", "no:cacheprovider", "-p", "no:timeout"]
    if DESELECTED:
        options += ["-k", " and ".join(f"not {name}" for name in DESELECTED)]
    try:
        return subprocess.run(
            [sys.executable, "-c", RUN, *options, "--pyargs", f"joblib.test.{module}"],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=240,
        )
    except subprocess.TimeoutExpired:
        return None


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("module", ["test_memmapping", "test_parallel"])
def test_joblib(module, tmp_path):
    """Nothing in joblib's tests of maps and of Parallel tells the difference."""
    # A second try after a hang: multiprocessing's Pool.terminate, which some of these
    # tests provoke, waits for ever when it kills a worker that holds the lock of the
    # queue of results.
    done = run(module, tmp_path) or run(module, tmp_path)
    assert done is not None
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
    assert int(re.search(r"(\d+) passed", done.stdout)[1]) > 30
