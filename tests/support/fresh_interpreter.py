"""Running a function in an interpreter of its own: what may crash or hang."""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

TESTS = Path(__file__).parent.parent


def run_function(module, name, *arguments, stock=False, timeout=60):
    """Call a function of a module with strings; its end is part of the claim.

    Returns what it prints. With `stock` samemap is not installed.
    """
    # A second try after a hang: multiprocessing's Pool.terminate, which an error
    # provokes, waits for ever when it kills a worker that holds the lock of the queue
    # of results, with stock joblib too.
    status, told, errors = _run(module, name, arguments, stock, timeout)
    if status == "hangs" and "multiprocessing" in map(str, arguments):
        status, told, errors = _run(module, name, arguments, stock, timeout)
    assert status == 0, (name, status, told, errors)
    return told


def _run(module, name, arguments, stock, timeout):
    """Return the status ("hangs": it was killed), the output and the errors."""
    source = f"import sys, {module}; {module}.{name}(*sys.argv[1:])"
    path = os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path.rstrip(os.pathsep)}
    if stock:
        environment["SAMEMAP"] = "0"
    # Files, not pipes: workers whose parent has crashed keep a pipe open for long.
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(
            [sys.executable, "-X", "faulthandler", "-c", source, *map(str, arguments)],
            stdout=output,
            stderr=errors,
            env=environment,
            start_new_session=True,
        )
        try:
            status = process.wait(timeout)
        except subprocess.TimeoutExpired:
            status = "hangs"
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        output.seek(0)
        errors.seek(0)
        return status, output.read(), errors.read()
