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

# Those that look at joblib's own dump of an array that was sent with the default mode.
DUMPS = {
    "test_memmapping": (
        "test_parallel_isolated_temp_folders",
        "test_managed_backend_reuse_temp_folder",
        "test_memmapping_temp_folder_thread_safety",
    ),
    "test_parallel": (
        "test_auto_memmap_on_arrays_from_generator",
        "test_memmapping_leaks",
    ),
}
# It asks in threads of its own, for which `parallel_config` does not hold.
IN_THREADS = "test_memmapping_temp_folder_thread_safety"

RUN = """
import sys
import joblib
import samemap
import pytest

assert samemap.installed()
{before}
status = pytest.main(sys.argv[1:])
assert samemap.installed()
sys.exit(status)
"""


def run(module, folder, chosen, before=""):
    """Run some of one module of joblib's tests; None if it hangs."""
    options = ["-q", "-p", "no:cacheprovider", "-p", "no:timeout", "-k", chosen]
    source = RUN.format(before=before)
    options += ["--pyargs", f"joblib.test.{module}"]
    try:
        return subprocess.run(
            [sys.executable, "-c", source, *options],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=240,
        )
    except subprocess.TimeoutExpired:
        return None


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("module", DUMPS)
def test_joblib(module, tmp_path):
    """Nothing in joblib's tests of maps and of Parallel tells the difference."""
    # A second try after a hang: multiprocessing's Pool.terminate, which some of these
    # tests provoke, waits for ever when it kills a worker that holds the lock of the
    # queue of results.
    chosen = " and ".join(f"not {name}" for name in (*DESELECTED, *DUMPS[module]))
    done = run(module, tmp_path, chosen) or run(module, tmp_path, chosen)
    check(done, at_least=30)


def check(done, at_least):
    assert done is not None
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
    assert int(re.search(r"(\d+) passed", done.stdout)[1]) >= at_least


@pytest.mark.long
@pytest.mark.timeout(300)
@pytest.mark.parametrize("module", DUMPS)
@pytest.mark.parametrize(
    "before",
    ['joblib.parallel_config(mmap_mode="r")', "samemap.install(memory=False)"],
    ids=["a mode that is named", "memory=False"],
)
def test_joblibs_dumps(module, before, tmp_path):
    """Where arrays in memory are left to joblib, all is as it says."""
    for name in DUMPS[module]:
        if "install" in before or name != IN_THREADS:
            # Each alone: one looks into its own folder, which loky's executor of
            # another test does not use.
            check(run(module, tmp_path, name, before), at_least=1)
