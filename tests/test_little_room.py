"""Where there is no memory for a copy of the caller's arrays, a disk has them."""

import os
import tempfile
from pathlib import Path

import numpy as np
import pytest
from joblib import Parallel, delayed
from joblib.externals.loky import get_reusable_executor
from support import cgroup
from support.scripts import run_script

pytestmark = [pytest.mark.needs_maps, pytest.mark.needs_descriptors]

MB = 1 << 20
IN_MEMORY = {"tmpfs", "ramfs"}


def skip_unless_on_disk(folder):
    found = ("", "")
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, mounted, kind, *_ = line.split()
        if os.path.commonpath([folder, mounted]) == mounted:
            found = max(found, (mounted, kind))
    if found[1] in IN_MEMORY:
        pytest.skip("temporary files are in memory here")


TWICE = """
import sys
import numpy as np
import samemap
from joblib import Parallel, delayed

def look(array):
    return float(array[::512].sum()), array.flags.writeable, type(array).__name__

if __name__ == "__main__":
    array = np.ones(200 * 131072)
    for views in ([array], [array[: 1 << 18], array]):
        found = Parallel(2, sys.argv[1], batch_size=1)(
            delayed(look)(view) for view in views * 2
        )
        whole = len(array)
        print(found == [(len(v) / 512, len(v) < whole, "ndarray") for v in views * 2])
    print(samemap.stats()["exported"]["arrays"])
"""


@pytest.mark.parametrize("limit", [350, 550])
def test_control_group(backend, limit):
    """In a container with too little memory for a second copy nobody is killed.

    200 MB of a caller that may have 350: with stock joblib, which dumps to memory,
    the kernel ends the caller. With 550 there is room, but not for each worker's: the
    array is read-only, as stock's is, and a small part of it isn't.
    """
    skip_unless_on_disk(tempfile.gettempdir())
    with cgroup.limited(limit * MB) as prefix:
        found = run_script(TWICE, backend, prefix=prefix).split()
    assert found == ["True", "True", "6"]


def find_file(array):
    """As a task: the name of the file that the array is on."""
    address = array.__array_interface__["data"][0]
    with open("/proc/self/maps") as maps:
        for line in maps:
            span, *_, name = line.rstrip("\n").split(maxsplit=5)
            low, high = (int(number, 16) for number in span.split("-"))
            if low <= address < high:
                return name
    return None


@pytest.mark.parametrize("how", ["argument", "environment"])
def test_named_folder(backend, tmp_path, monkeypatch, how):
    """A named folder on a disk gets the files, which have no name and leave none."""
    skip_unless_on_disk(tmp_path)
    # joblib's executor keeps the folder of the call that has made it.
    get_reusable_executor().shutdown(wait=True)
    options = {}
    if how == "argument":
        options["temp_folder"] = str(tmp_path)
    else:
        monkeypatch.setenv("JOBLIB_TEMP_FOLDER", str(tmp_path))
    array = np.arange(300_000.0)
    with Parallel(2, backend, **options) as parallel:
        names = parallel(delayed(find_file)(view) for view in [array, array[::-1]])
        if not all(name.startswith("/") for name in names):
            pytest.skip("no O_TMPFILE on this file system")
        assert {str(Path(name).parent) for name in names} == {str(tmp_path)}
        assert not [file for file in tmp_path.rglob("*") if file.is_file()]
