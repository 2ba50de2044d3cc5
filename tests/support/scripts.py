"""Running a script in an interpreter of its own."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
PROGRAMS = TESTS / "programs"


def run_script(source, *arguments, timeout=100, status=0, prefix=(), environment=()):
    """Run Python source; return what it prints. Its end is part of the claim.

    `prefix` is a command that runs the rest of its arguments, `environment` has more
    variables or other values of them. The script can import what the tests can.
    """
    folders = [TESTS, TESTS / "fuzz", os.environ.get("PYTHONPATH")]
    path = os.pathsep.join(str(folder) for folder in folders if folder)
    done = subprocess.run(
        [*prefix, sys.executable, "-X", "faulthandler", "-c", textwrap.dedent(source)]
        + [str(argument) for argument in arguments],
        env={**os.environ, "PYTHONPATH": path, **dict(environment)},
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    assert done.returncode == status, (done.returncode, done.stdout, done.stderr)
    return done.stdout


def mounted(commands):
    """Return a prefix that mounts something for one program; skip if that can't be."""
    prefix = ["unshare", "-m", "sh", "-c", f'{commands} && exec "$@"', "sh"]
    try:
        done = subprocess.run([*prefix, "true"], capture_output=True, timeout=60)
    except FileNotFoundError:
        pytest.skip("no unshare")
    if done.returncode != 0:
        pytest.skip("may not mount")
    return prefix
