"""dask with a worker on a second host: right data and no failed task."""

import pytest
from support.hosts import first_host
from support.scripts import run_script

pytest.importorskip("distributed")

PROGRAM = """
    import sys
    import joblib, numpy as np, samemap, samemap.dask
    from support.dask_tasks import place, same
    from support.hosts import two_hosts

    if __name__ == "__main__":
        path, commands, there = sys.argv[1:]
        np.arange(6000.0).tofile(path)
        with two_hosts(commands, there) as client:
            samemap.dask.install(client)
            array = np.memmap(path, "f8", "r+")[::-2]
            def told(place):
                assert place[1] == array.sum(), place
                return place[2]
            for worker in ("second", 0):
                future = client.submit(place, array, workers=[worker], pure=False)
                scattered = client.scatter(array, workers=None, hash=False)
                other = client.submit(place, scattered, workers=[worker], pure=False)
                back = client.submit(same, array, workers=[worker], pure=False)
                back = back.result(30)
                mode = getattr(back, "mode", None)
                np.testing.assert_array_equal(back, array)
                print(told(future.result(30)), told(other.result(30)), mode)
            with joblib.parallel_config(backend="dask"):
                tasks = [joblib.delayed(place)(array) for _ in range(8)]
                print({told(place) for place in joblib.Parallel(batch_size=1)(tasks)})
            print(samemap.explain(array, engine="dask")["by_reference"])
            print(sorted(client.run_on_scheduler(erred)))
            samemap.dask.uninstall()
"""

PROGRAM = PROGRAM.replace(
    "    if __name__",
    """    def erred(dask_scheduler):
        return [k for k, t in dask_scheduler.tasks.items() if t.state == "erred"]

    if __name__""",
    1,
)

BY_VALUE = "None None None\n" * 2 + "{None}\nFalse\n[]\n"
BY_REFERENCE = "r+ r+ r+\n" * 2 + "{'r+'}\nTrue\n[]\n"

OTHER_FILE = (
    "mount -t tmpfs none {folder} && head -c 48000 /dev/urandom > {folder}/data"
)
OVERLAY = (
    "mkdir {folder}/../over && mount -t tmpfs none {folder}/../over && "
    "mkdir {folder}/../over/upper {folder}/../over/work && mount -t overlay -o "
    "lowerdir={folder},upperdir={folder}/../over/upper,workdir={folder}/../over/work "
    "none {folder}"
)


@pytest.mark.parametrize(
    ("commands", "there"),
    [
        ("true", "samemap"),
        ("mount -t tmpfs none {folder}", "samemap"),
        (OTHER_FILE, "samemap"),
        (OVERLAY, "samemap"),
        ("true", "nothing"),
    ],
    ids=["shared folder", "no file", "another file", "overlay", "no samemap"],
)
def test_by_value_where_nothing_is_proven(tmp_path, commands, there):
    """Each task gets the caller's data, and none fails."""
    folder = tmp_path / "folder"
    folder.mkdir()
    printed = run_script(
        PROGRAM,
        folder / "data",
        commands.format(folder=folder),
        there,
        prefix=first_host(),
    )
    # Mode and type of a copy are stock's.
    assert printed.splitlines()[-1] == "[]"
    assert printed == BY_VALUE


NETWORK = {"SAMEMAP_NETWORK": "tmpfs"}


def on_a_network(folder):
    """Return a prefix for hosts with one file system, of one source."""
    return first_host(f"mount -t tmpfs server:/export {folder}")


def test_by_reference_on_one_network_file_system(tmp_path):
    """The same source in both tables of mounts, and the same file behind the path."""
    printed = run_script(
        PROGRAM,
        tmp_path / "data",
        "true",
        "samemap",
        prefix=on_a_network(tmp_path),
        environment=NETWORK,
    )
    assert printed == BY_REFERENCE


@pytest.mark.parametrize(
    "commands",
    [
        OTHER_FILE.replace("none", "other:/export"),
        OVERLAY.replace("{folder}/../over", "/mnt"),
    ],
    ids=["other server", "overlay"],
)
def test_by_value_on_another_source(tmp_path, commands):
    """A mount over the folder is another file system, whatever is in it."""
    printed = run_script(
        PROGRAM,
        tmp_path / "data",
        commands.replace("mkdir /mnt && ", "").format(folder=tmp_path),
        "samemap",
        prefix=on_a_network(tmp_path),
        environment=NETWORK,
    )
    assert printed == BY_VALUE


CHANGED = """
    import sys
    import numpy as np, samemap, samemap.dask
    from support.dask_tasks import place, second, wait_for
    from support.hosts import two_hosts

    if __name__ == "__main__":
        path, change = sys.argv[1:]
        np.arange(6000.0).tofile(path)
        with two_hosts() as client:
            samemap.dask.install(client)
            array = np.memmap(path, "f8", "r")
            gate = client.submit(wait_for, path + ".gate", workers=["second"])
            future = client.submit(second, gate, array, workers=["second"], pure=False)
            exec(change, {"path": path, "np": np})
            open(path + ".gate", "w").close()
            try:
                print(future.result(60))
            except samemap.BackingError as error:
                print(type(error).__name__, path in str(error))
            samemap.dask.uninstall()
"""


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ("import os; os.unlink(path)", "BackingNotFoundError"),
        ("import os; os.truncate(path, 8000)", "BackingTruncatedError"),
        (
            "import os; os.rename(path, path + '2'); np.ones(6000).tofile(path)",
            "BackingReplacedError",
        ),
        (
            "import os; t = os.stat(path); f = open(path, 'r+b'); f.write(b'x' * 100);"
            "f.close(); os.utime(path, ns=(t.st_atime_ns, t.st_mtime_ns))",
            "BackingReplacedError",
        ),
        ("import os; os.utime(path)", "BackingReplacedError"),
    ],
    ids=["gone", "truncated", "replaced", "content", "time"],
)
def test_a_file_that_has_changed(tmp_path, change, error):
    """On another host a typed error, never other data, after a bounded time."""
    printed = run_script(
        CHANGED,
        tmp_path / "data",
        change,
        prefix=on_a_network(tmp_path),
        environment=NETWORK,
    )
    assert printed == f"{error} True\n"


LATE = """
    import sys, time
    import numpy as np, samemap, samemap.dask
    from distributed import get_worker
    from support.dask_tasks import place, wait_for
    from support.hosts import two_hosts

    def tried():
        from samemap.dask import _arrival
        return bool(_arrival._tries)

    if __name__ == "__main__":
        path, there, others = sys.argv[1:]
        np.arange(6000.0).tofile(path)
        with two_hosts("mount -t tmpfs none " + path[:path.rindex("/")], there,
                       late=True) as (client, join):
            samemap.dask.install(client)
            array = np.memmap(path, "f8", "r")
            busy = client.submit(wait_for, path + ".gate", pure=False)
            task = client.submit(place, array, pure=False, workers=["second"],
                                 allow_other_workers=others == "others")
            if others == "others":
                task = client.submit(place, array, pure=False)
            join()
            if others == "others":
                second = [address for address, info
                          in client.scheduler_info()["workers"].items()
                          if info["name"] == "second"]
                while not client.run(tried, workers=second)[second[0]]:
                    time.sleep(0.05)
                open(path + ".gate", "w").close()
            try:
                print(task.result(60))
            except (samemap.BackingError, ModuleNotFoundError) as error:
                print(type(error).__name__)
            # The next one knows it.
            open(path + ".gate", "w").close()
            client.gather(busy)
            time.sleep(0.5)
            told = client.submit(place, array, pure=False, workers=["second"])
            print(told.result(60)[1])
            samemap.dask.uninstall()
"""


@pytest.mark.parametrize(
    ("there", "error"),
    [("samemap", "BackingNotFoundError"), ("nothing", "ModuleNotFoundError")],
)
def test_a_worker_that_comes_later_alone(tmp_path, there, error):
    """It asks for another a bounded number of times, then the error is typed."""
    folder = tmp_path / "folder"
    folder.mkdir()
    printed = run_script(LATE, folder / "data", there, "alone", prefix=first_host())
    assert printed == f"{error}\n17997000.0\n"


def test_a_worker_that_comes_later_beside_others(tmp_path):
    """It gives the task to another one, and nothing fails."""
    folder = tmp_path / "folder"
    folder.mkdir()
    printed = run_script(
        LATE, folder / "data", "samemap", "others", prefix=first_host()
    )
    assert printed == "('memmap', 17997000.0, 'r')\n17997000.0\n"
