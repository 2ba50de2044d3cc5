"""Was this memory written since? src/os/writes.h, through a program in C."""

import mmap
import subprocess

import pytest
from support import seccomp
from support.compiled import FLAGS, build, run

PAGE = mmap.PAGESIZE


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    files = ("writes_linux.c", "seccomp_linux.c", "textfile.c", "page.c")
    return build(tmp_path_factory.mktemp("writes"), "writes", *files)


large = pytest.mark.parametrize("large", [0, 1], ids=["small pages", "large pages"])

# What happens to memory, and that is no write to it.
UNTOUCHED = ["nothing", "fork", "fork and close", "mprotect"]

WRITTEN = [
    "store",
    "same value",
    "last page",
    "read",
    "pread",
    "O_DIRECT",
    "process_vm_writev",
    "/proc/self/mem",
    "thread",
    "fork and store",
]

# The memory is other memory, or has lost what it held, or isn't watched any more.
LOST = [
    "drop page",
    "drop block",
    "drop all",
    "drop and read",
    "free lazily",
    "map again",
    "map part again",
    "unmap",
    "unmap part",
    "move",
    "close",
    "disarm",
]


@large
@pytest.mark.parametrize("way", UNTOUCHED)
def test_unwritten(program, way, large):
    """Reading proves nothing written; nor does what a forked child does."""
    told = run(program, "seen", way, large)
    assert told == {"status": 0, "before": "none", "after": "none"}


@large
@pytest.mark.parametrize("way", WRITTEN)
def test_written(program, way, large):
    """Whoever writes, by whatever way, it is seen."""
    told = run(program, "seen", way, large)
    assert told == {"status": 0, "before": "none", "after": "some"}


@large
@pytest.mark.parametrize("way", LOST)
def test_lost(program, way, large):
    """Memory that is not what was armed is never taken for unwritten."""
    told = run(program, "seen", way, large)
    assert told["before"] == "none"
    assert told["after"] in ("some", "unknown")


@large
def test_untouched_pages(program, large):
    """Pages that were never there before are watched as well."""
    told = run(program, "untouched", large)
    assert told == {"status": 0, "before": "none", "after": "some"}


def test_armed_again(program):
    """Armed a second time, a range is unwritten from then on, and counts once."""
    told = run(program, "again")
    assert (told["first"], told["armed"], told["second"]) == ("some", "0", "none")
    assert told["ranges"] == "1"


def test_forked_child(program):
    """A child knows nothing of its parent's ranges, arms its own; the parent's stay."""
    assert run(program, "child") == {"status": 0, "child": "0", "parent": "none"}


@pytest.mark.needs_maps
@pytest.mark.parametrize("kind", ["shared", "file", "private file"])
def test_other_memory(program, kind):
    """What a file or another process may change unseen is not armed."""
    told = run(program, "kind", kind)
    if told["arm"] in ("Function not implemented", "Operation not permitted"):
        pytest.skip("no asynchronous write protection: Linux before 6.7, or forbidden")
    assert (told["arm"], told["ranges"]) == ("Invalid argument", "0")


def test_number_of_ranges(program):
    """So many are armed, as each costs entries of the map table; then one for one."""
    assert run(program, "limit") == {
        "status": 0,
        "armed": "100",
        "error": "No space left on device",
        "another": "0",
    }


@pytest.mark.parametrize(
    ("data", "length", "expected"),
    [
        (PAGE, 2 * PAGE, (PAGE, 3 * PAGE)),
        (PAGE + 1, 2 * PAGE, (2 * PAGE, 3 * PAGE)),
        (PAGE - 1, 2 * PAGE, (PAGE, 2 * PAGE)),
        (PAGE + 1, PAGE, None),
        (PAGE, PAGE - 1, None),
        (PAGE, 0, None),
    ],
)
def test_pages(program, data, length, expected):
    """Only pages that lie in the memory as a whole: others have neighbours."""
    told = run(program, "pages", data, length)
    assert told["any"] == ("1" if expected else "0")
    if expected:
        assert (int(told["low"]), int(told["high"])) == expected


@pytest.mark.parametrize("name", ["libcuda.so.1", "libibverbs.so.1"])
def test_drivers(program, tmp_path, name):
    """Where a device may write to memory, unseen, nothing is proven."""
    library = tmp_path / name
    (tmp_path / "empty.c").write_text("int samemap_nothing;\n")
    command = ["cc", *FLAGS, "-shared", "-fPIC", tmp_path / "empty.c", "-o", library]
    subprocess.run(command, check=True, timeout=60)
    told = run(program, "library", library)
    assert told == {"status": 0, "before": "none", "after": "unknown"}


def test_other_libraries(program, tmp_path):
    """Any other library is loaded without a loss."""
    library = tmp_path / "libother.so"
    (tmp_path / "empty.c").write_text("int samemap_nothing;\n")
    command = ["cc", *FLAGS, "-shared", "-fPIC", tmp_path / "empty.c", "-o", library]
    subprocess.run(command, check=True, timeout=60)
    assert run(program, "library", library)["after"] == "none"


def test_pinned_pages(program):
    """While io_uring may write to registered buffers, unseen, nothing is proven."""
    told = run(program, "pinned")
    assert told == {"status": 0, "before": "none", "after": "unknown"}


@pytest.mark.parametrize("action", [seccomp.KILL, seccomp.REFUSE], ids=["kill", "no"])
def test_forbidden(program, action):
    """Where userfaultfd is forbidden, or kills, memory can't be armed."""
    forbid = seccomp.forbidding("userfaultfd", action)
    told = run(program, "kind", "private", preexec_fn=forbid)
    assert told == {"status": 0, "arm": "Operation not permitted", "ranges": "0"}
