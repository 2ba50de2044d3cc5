"""A second host, in namespaces of this one: network, mounts, names, processes.

`first_host` is for the test: a prefix for `run_script`, as the program gets a network
and mounts of its own, too, and leaves nothing behind. `second_host` and `two_hosts` are
for the program.
"""

import contextlib
import shutil
import subprocess
import sys

import pytest

FIRST, SECOND = "10.77.0.1", "10.77.0.2"

UNSHARE = ["unshare", "-n", "-m"]

WORKER = """
import asyncio, sys
if sys.argv[2] != "samemap":
    # Here nothing of that name can be imported.
    sys.modules["samemap"] = None
from distributed import Worker

async def main():
    scheduler, _, host = sys.argv[1:]
    async with Worker(scheduler, nthreads=1, host=host, name="second") as worker:
        await worker.finished()

asyncio.run(main())
"""


def first_host(commands="true"):
    """Return a prefix that runs a program where it can make hosts; skip elsewhere."""
    for tool in ("unshare", "ip"):
        if shutil.which(tool) is None:
            pytest.skip(f"no {tool}")
    script = f'ip link set lo up && {commands} && exec "$@"'
    prefix = [*UNSHARE, "sh", "-c", script, "sh"]
    trial = "ip link add one type veth peer name two"
    done = subprocess.run([*prefix, "sh", "-c", trial], capture_output=True, timeout=60)
    if done.returncode != 0:
        pytest.skip("may not make namespaces with a network")
    return prefix


@contextlib.contextmanager
def second_host(commands, *program):
    """Run a program on a second host, once its standard input has a line for it.

    `commands` are a shell's, in its mount namespace. The line is the last argument.
    """
    script = (
        f"hostname second && {commands} && echo ready && read -r line && "
        f"ip link set lo up && ip addr add {SECOND}/24 dev second && "
        'ip link set second up && exec "$@" $line'
    )
    host = subprocess.Popen(
        [
            *(*UNSHARE, "-u", "-p", "--fork", "--mount-proc", "--kill-child"),
            *("sh", "-c", script, "sh", *program),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert host.stdout.readline() == "ready\n", commands
        ip("link", "add", "first", "type", "veth", "peer", "second", "netns", host.pid)
        ip("addr", "add", f"{FIRST}/24", "dev", "first")
        ip("link", "set", "first", "up")
        yield host
    finally:
        host.kill()
        host.wait()


def ip(*arguments):
    subprocess.run(["ip", *map(str, arguments)], check=True)


def start(host, *line):
    """Let the program of a second host begin."""
    host.stdin.write(" ".join(line) + "\n")
    host.stdin.flush()


@contextlib.contextmanager
def two_hosts(commands="true", there="samemap", workers=1, late=False):
    """Return a client of a cluster: workers here, and one on a second host.

    `there` is "samemap" or what the second host is without. `late`: a function of the
    client is returned as well, which lets that one begin.
    """
    from distributed import Client, LocalCluster

    program = [sys.executable, "-c", WORKER]
    with (
        second_host(commands, *program) as host,
        LocalCluster(
            n_workers=workers,
            threads_per_worker=1,
            host=FIRST,
            dashboard_address=None,
        ) as cluster,
        Client(cluster) as client,
    ):

        def join():
            start(host, cluster.scheduler_address, there, SECOND)
            client.wait_for_workers(workers + 1, timeout=60)

        if not late:
            join()
        yield (client, join) if late else client
