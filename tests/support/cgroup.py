"""A control group with little memory, as a container has it."""

import contextlib
import os
import signal
import time
import uuid
from pathlib import Path

import pytest

# Where the groups of the two versions are, and the file with the limit of one.
VERSIONS = {
    Path("/sys/fs/cgroup/memory"): "memory.limit_in_bytes",
    Path("/sys/fs/cgroup"): "memory.max",
}
# No memory on a disk: in version 1 the limit of both together, where it is counted.
SWAP = {"memory.memsw.limit_in_bytes": 1, "memory.swap.max": 0}


def make():
    """Return a new group, and the file with its limit; skip if there can be none."""
    for root, limit in VERSIONS.items():
        group = root / f"samemap-test-{uuid.uuid4().hex}"
        try:
            group.mkdir()
        except OSError:
            continue
        if (group / limit).exists():
            return group, group / limit
        group.rmdir()
    pytest.skip("no control group can be made that limits memory")
    return None


@contextlib.contextmanager
def limited(nbytes):
    """Make a group that may have so much memory.

    Gives a prefix that runs a command in it, for `run_script`.
    """
    group, limit = make()
    try:
        limit.write_text(str(nbytes))
        for name, value in SWAP.items():
            if (group / name).exists():
                (group / name).write_text(str(value * nbytes))
        yield ["sh", "-c", 'echo $$ > "$0/cgroup.procs" && exec "$@"', str(group)]
    finally:
        remove(group)


def remove(group):
    """Kill who is left there; a group can be removed when nobody is."""
    end = time.monotonic() + 60
    while True:
        for pid in (group / "cgroup.procs").read_text().split():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
        try:
            group.rmdir()
        except OSError:
            # They are ending: there is no event for that in version 1.
            assert time.monotonic() < end
            time.sleep(0.05)
        else:
            return
