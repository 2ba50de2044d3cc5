"""Running a function in an interpreter of its own: what may crash or hang."""

import os
import subprocess
import sys
from pathlib import Path

TESTS = Path(__file__).parent.parent


def run_function(module, name, *arguments, stock=False, timeout=60):
    """Call a function of a module with strings; its end is part of the claim.

    Returns what it prints. With `stock` samemap is not installed.
    """
    source = f"import sys, {module}; {module}.{name}(*sys.argv[1:])"
    path = os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path.rstrip(os.pathsep)}
    if stock:
        environment["SAMEMAP"] = "0"
    process = subprocess.Popen(
        [sys.executable, "-X", "faulthandler", "-c", source, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        start_new_session=True,
    )
    try:
        output, errors = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, 9)  # its workers too, which have the pipes
        output, errors = process.communicate()
        raise AssertionError(f"{name} hangs: {output}\n{errors}") from None
    assert process.returncode == 0, (process.returncode, output, errors)
    return output
