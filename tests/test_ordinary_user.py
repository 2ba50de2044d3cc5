"""Circumstances other than root's on a machine of his own.

`.ci/circumstances` runs the tests of this folder in them.
"""

import os
import subprocess
import sys

import pytest
from support.scripts import PROGRAMS, TESTS


def run(circumstance, *arguments, **environment):
    """Run Python so; skip, with the reason, where that can't be."""
    command = [sys.executable, *arguments]
    if circumstance is not None:
        command = [str(PROGRAMS / "circumstance"), circumstance, *command]
    done = subprocess.run(
        command,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=100,
    )
    if done.returncode == 77:
        pytest.skip(done.stderr.strip())
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("variable", ["", "1"], ids=["dumpable", "not dumpable"])
@pytest.mark.parametrize(
    "circumstance", [None, "nobody", "no-capabilities", "not-dumpable", "no-proc"]
)
def test_right_data(circumstance, variable):
    """Whatever can't be reached by reference is copied: all values are right.

    The variable is about the caller alone: loky's workers are dumpable all the same.
    """
    scenario = str(PROGRAMS / "scenario.py")
    output = run(circumstance, scenario, SAMEMAP_TEST_NOT_DUMPABLE=variable)
    lines = output.strip().splitlines()
    assert len(lines) >= 14
    assert [line for line in lines if not line.endswith(": right")] == []


def test_nobody():
    """An ordinary user is one: no privileges, and a home that can't be written to."""
    source = "import os; print(os.geteuid(), os.access(os.environ['HOME'], os.W_OK))"
    uid, writable = run("nobody", "-c", source).split()
    assert int(uid) > 0
    assert writable == "False"


@pytest.mark.needs_maps
def test_not_dumpable():
    """A process that nobody may look into is one."""
    source = """if True:
        import sys
        sys.path.insert(0, sys.argv[1])
        from support import machine
        print(machine.MAPS, machine.DESCRIPTORS)
    """
    assert run("not-dumpable", "-c", source, str(TESTS)) == "True False\n"
