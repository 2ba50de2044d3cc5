"""Descriptors are the user's: how many samemap keeps, and what finding them costs."""

import os

import pytest
from support.scripts import run_script

pytestmark = [pytest.mark.needs_maps, pytest.mark.needs_descriptors]

COMMON = """
import os, resource, sys, time
import numpy as np, samemap
from joblib import Parallel, delayed

folder, backend = sys.argv[1:]

def set_limit(limit):
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if hard != resource.RLIM_INFINITY and hard < limit:
        print("limit too low")
        sys.exit()
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))

def nameless(i, mode="r"):
    path = f"{folder}/{i}"
    np.full(512, float(i)).tofile(path)
    array = np.memmap(path, np.float64, mode)
    os.unlink(path)
    return array

def in_use():
    return len(os.listdir("/proc/self/fd")) - 1

def first(array):
    return array[0]
"""


def run(source, *arguments):
    printed = run_script(COMMON + source, *arguments)
    if "limit too low" in printed:
        pytest.skip("the limit of descriptors is lower than the test needs")
    return printed


def test_a_quarter_is_left(tmp_path, backend):
    """Nameless files take no descriptor of the last quarter; then they are copied."""
    run(
        """
set_limit(256)
arrays = [nameless(i) for i in range(160)]
before = in_use()
with Parallel(2, backend=backend) as parallel:
    for _ in range(3):
        found = parallel(delayed(first)(array[::-1]) for array in arrays)
        assert found == [float(i) for i in range(160)]
    spare = [os.open("/dev/null", os.O_RDONLY) for _ in range(40)]
    for fd in spare:
        os.close(fd)
told = [samemap.explain(array) for array in arrays]
kept = sum(t["by_reference"] for t in told)
assert 0 < kept < 160, kept
assert {t["reason"] for t in told if not t["by_reference"]} == {"descriptors"}
message = samemap.dumps(arrays)
assert in_use() <= 192 or in_use() == before, in_use()
for array, value in zip(samemap.loads(message), arrays):
    np.testing.assert_array_equal(array, value)
""",
        tmp_path,
        backend,
    )


def test_kept_ones_come_back(tmp_path):
    """What samemap keeps for a map is closed with it."""
    run(
        """
arrays = [nameless(i) for i in range(20)]
before = in_use()
samemap.dumps(arrays)
assert in_use() > before
told = samemap.explain(arrays[0])
assert told["by_reference"] and told["route"] == "descriptor", told
del arrays[1:]
samemap.dumps(arrays)
assert in_use() <= before
""",
        tmp_path,
        "-",
    )


def test_opened_while_a_message_is_written(tmp_path):
    """A file that is mapped while the message is pickled is found as well."""
    run(
        """
class Late:
    def __reduce__(self):
        return list, ([nameless(2, "r+")],)

keep = []
def nameless_kept(i, mode):
    keep.append(make(i, mode))
    return keep[-1]
make, nameless = nameless, nameless_kept
samemap.dumps([make(1), Late(), Late()], strict=True)
""",
        tmp_path,
        "-",
    )


@pytest.mark.skipif(not os.path.exists("/proc/self/fd"), reason="no /proc")
def test_cost_is_linear(tmp_path):
    """Eight times as many nameless files take eight times as long, not sixty."""
    printed = run(
        """
def measure(count):
    arrays = [nameless(i) for i in range(count)]
    start = time.process_time()
    samemap.dumps(arrays, strict=True)
    return time.process_time() - start

set_limit(8192)
print(min(measure(1600) for _ in range(3)) / min(measure(200) for _ in range(9)))
""",
        tmp_path,
        "-",
    )
    assert float(printed) < 16
