"""Running a script in an interpreter of its own."""

import subprocess
import sys
import textwrap


def run_script(source, *arguments, timeout=100, status=0, prefix=()):
    """Run Python source; return what it prints. Its end is part of the claim.

    `prefix` is a command that runs the rest of its arguments.
    """
    done = subprocess.run(
        [*prefix, sys.executable, "-X", "faulthandler", "-c", textwrap.dedent(source)]
        + [str(argument) for argument in arguments],
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    assert done.returncode == status, (done.returncode, done.stdout, done.stderr)
    return done.stdout
