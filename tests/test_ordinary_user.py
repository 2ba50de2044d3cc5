"""Circumstances other than root's on a machine of his own."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent

# Commands that run the rest of the line under other circumstances.
NO_CAPABILITIES = ["setpriv", "--bounding-set", "-all", "--inh-caps", "-all"]
NOBODY = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"]
NO_PROC = ["unshare", "-m", "sh", "-c", 'mount -t tmpfs none /proc && exec "$@"', "sh"]


def run(prefix, arguments, tmp_path, **environment):
    """Run Python so, with a home that can't be written; skip if that can't be."""
    home, scratch = tmp_path / "home", tmp_path / "scratch"
    home.mkdir(exist_ok=True)
    home.chmod(0o555)
    scratch.mkdir(exist_ok=True)
    scratch.chmod(0o777)
    for parent in (tmp_path, tmp_path.parent, tmp_path.parent.parent):
        if parent.stat().st_uid == os.getuid() and str(parent) != "/tmp":
            parent.chmod(0o755)
    settings = {"HOME": str(home), "TMPDIR": str(scratch), **environment}

    def start(*arguments):
        return subprocess.run(
            [*prefix, sys.executable, "-B", *arguments],
            cwd=scratch,
            env={**os.environ, **settings},
            capture_output=True,
            text=True,
            timeout=300,
        )

    if prefix:
        if shutil.which(prefix[0]) is None:
            pytest.skip(f"{prefix[0]} is not installed")
        # Also: workers must be able to start Python (it may lie in root's home).
        child = "import subprocess, sys; subprocess.check_call([sys.executable, '-V'])"
        if start("-c", f"import samemap, pytest; {child}").returncode != 0:
            pytest.skip("Python can't be started so")
    return start(*arguments)


@pytest.mark.parametrize(
    ("prefix", "circumstances"),
    [
        pytest.param([], [], id="as it is"),
        pytest.param([], ["not dumpable"], id="not dumpable"),
        pytest.param(NO_CAPABILITIES, [], id="no capabilities"),
        pytest.param(NO_CAPABILITIES, ["not dumpable"], id="neither"),
        pytest.param(NOBODY, [], id="nobody"),
        pytest.param(NOBODY, ["not dumpable"], id="nobody, not dumpable"),
        pytest.param(NO_PROC, ["no proc"], id="no proc"),
    ],
)
def test_right_data(prefix, circumstances, tmp_path):
    """Whatever can't be reached by reference is copied: all values are right."""
    done = run(prefix, [str(HERE / "scenario.py"), *circumstances], tmp_path)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.strip().splitlines()
    assert len(lines) >= 7
    assert [line for line in lines if not line.endswith(": right")] == []


@pytest.mark.skipif(os.geteuid() != 0, reason="the suite itself runs so")
@pytest.mark.parametrize("prefix", [NO_CAPABILITIES, NOBODY], ids=["root", "nobody"])
def test_suite(prefix, tmp_path):
    """The tests of files and addresses pass without root's privileges."""
    names = ("test_fates.py", "test_address.py", "test_explain.py")
    arguments = ["-m", "pytest", "-q", "-p", "no:cacheprovider"]
    done = run(prefix, [*arguments, *(str(HERE / n) for n in names)], tmp_path)
    assert done.returncode == 0, done.stdout[-4000:]
