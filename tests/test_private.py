"""Private maps with modified pages: views stay together, bytes travel once."""

import mmap

import numpy as np
import pytest
import samemap
from joblib.pool import CustomizablePickler
from samemap import _core
from support.encoding import ALONE, PRIVATE, WRITEABLE, encode
from support.foreign import libc
from support.scripts import run_script

ROWS, COLUMNS = 360, 360
NBYTES = ROWS * COLUMNS * 8


@pytest.fixture
def modified(raw_file):
    """A private map of 1 MB, all of it modified."""
    path = raw_file(np.arange(ROWS * COLUMNS, dtype=np.float64))
    array = np.memmap(path, np.float64, "c", shape=(ROWS, COLUMNS))
    array += 1
    return array


def write_first(first, second):
    """As a task: what is written into one view is seen in the other."""
    before = first.copy()
    first[0] = -99
    return before, -99 in second, np.shares_memory(first, second), first.strides


@pytest.mark.needs_pagemap
@pytest.mark.parametrize(
    "views",
    [
        lambda a: (a.ravel()[::2], a),
        lambda a: (a.ravel()[::100], a[:1]),
        lambda a: (a.ravel(), a[::-1]),
        lambda a: (a.T[0], a),
    ],
)
def test_views_stay_together(send, modified, views):
    """Views that share memory here share it there, with their strides."""
    first, second = views(modified)
    for before, seen, shared, strides in send(write_first, *[(first, second)] * 2):
        np.testing.assert_array_equal(before, first)
        assert (seen, shared, strides) == (True, True, first.strides)
    assert modified[0, 0] == 1


@pytest.mark.needs_pagemap
def test_each_byte_once(modified):
    """Views of the same pages don't send them again."""
    once = len(samemap.dumps(modified))
    assert once < NBYTES + 500
    assert len(samemap.dumps([modified, modified[::-1], modified.T])) < once + 200


@pytest.mark.needs_pagemap
def test_never_more_than_the_elements(modified):
    """A few elements on many modified pages send the elements, not the pages."""
    columns = [modified[:, i] for i in range(COLUMNS)]
    assert len(samemap.dumps(columns[0])) < ROWS * 8 + 500
    message = samemap.dumps(columns)
    assert len(message) < NBYTES + 100 * COLUMNS
    copies = samemap.loads(message)
    np.testing.assert_array_equal(np.transpose(copies), modified)
    assert copies[5].base is copies[0].base


@pytest.mark.needs_pagemap
def test_rows_in_any_order(modified):
    """Parts that touch, overlap and enclose each other: each byte arrives."""
    rng = np.random.default_rng(0)
    bounds = np.sort(rng.integers(0, ROWS, (200, 2)))
    views = [modified[low:high] for low, high in bounds]
    message = samemap.dumps(views)
    assert len(message) < NBYTES + 100 * len(views)
    for copy, view in zip(samemap.loads(message), views, strict=True):
        np.testing.assert_array_equal(copy, view)


def test_messages_are_apart(modified):
    """What went with one message is not missing in the next."""
    for _ in range(2):
        np.testing.assert_array_equal(samemap.loads(samemap.dumps(modified)), modified)
    outer = _core.Outgoing()
    for _ in range(2):
        np.testing.assert_array_equal(samemap.loads(samemap.dumps(modified)), modified)
    del outer


def test_pickler_without_messages(modified, tmp_path):
    """A pickler that tells no message from the next sends all bytes each time."""
    reduce = _core.Reducer().reduce
    for number in range(2):
        path = tmp_path / str(number)
        with path.open("wb") as file:
            CustomizablePickler(file, {np.memmap: reduce}).dump(modified)
        np.testing.assert_array_equal(samemap.loads(path.read_bytes()), modified)


@pytest.mark.needs_pagemap
def test_many_within_a_moment(raw_file):
    """Nor when it pickles many arrays in the time that tells messages apart."""
    array = np.memmap(raw_file(np.zeros(500)), np.float64, "c")
    array[3] = 1
    reduce = _core.Reducer().reduce
    patches = [reduce(array)[1][3] for _ in range(1000)]
    assert all(len(patch[1]) == array.nbytes for patch in patches)


@pytest.mark.needs_pagemap
def test_pages_nobody_tells_of(tmp_path):
    """Where the system doesn't tell which pages are modified, all are copied."""
    source = """
        import os, resource, sys
        import numpy as np
        import samemap
        array = np.memmap(sys.argv[1], np.float64, "w+", shape=(1000,))
        array = np.memmap(sys.argv[1], np.float64, "c")
        array[3] = 7
        assert samemap.explain(array)["by_reference"]
        # No descriptor is left to open the table of pages with.
        free = os.dup(0)
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (free + 1, hard))
        told = samemap.explain(array)
        copy = samemap.loads(samemap.dumps(array))
        print(told["reason"], copy[3], copy.flags.writeable)
    """
    assert run_script(source, tmp_path / "data") == "no pagemap 7.0 True\n"


@pytest.mark.needs_pagemap
def test_views_that_are_copied(modified):
    """Each view of a map that can't go by reference has bytes of its own."""
    assert libc.mprotect(modified.ctypes.data, NBYTES, mmap.PROT_READ) == 0
    views = [modified[:10], modified[10:20], modified[::-1]]
    assert samemap.explain(views[0])["reason"] == "modified"
    for copy, view in zip(samemap.loads(samemap.dumps(views)), views, strict=True):
        assert type(copy) is np.memmap
        np.testing.assert_array_equal(copy, view)


@pytest.mark.needs_pagemap
def test_only_looking(modified):
    """To ask about an array within a message is not to send it."""
    message = _core.Outgoing()
    assert _core.is_mapped(modified)
    assert samemap.explain(modified)["by_reference"]
    args = _core.Reducer().reduce(modified)[1]
    assert len(args[3][1]) == NBYTES
    del message


def test_recarray(modified, send):
    """A subclass looks at its memory before it sends it."""
    records = modified.view([("x", "f8"), ("y", "f8")]).view(np.recarray)
    for copy in send(np.array, (records,), (records,)):
        np.testing.assert_array_equal(copy, records)


# One float64 at the start of the map.
ONE = "f8", ()


@pytest.fixture
def source(modified):
    """The map of a message, and the tuple in which its views have it."""
    memory = _core.Reducer().reduce(modified)[1][0]
    attach, reference = memory[0].__reduce__()
    return attach(*reference)


@pytest.mark.needs_pagemap
def test_damaged_elements(source):
    """Patches are for private maps: shared ones, and bytes, are not written to."""
    for memory in (source, bytes(8), bytearray(8)):
        with pytest.raises(TypeError, match="private mapping"):
            _core.rebuild(memory, encode(*ONE), None, (None, bytes(8)))


@pytest.mark.needs_pagemap
@pytest.mark.parametrize("function", [_core.rebuild, _core.pending])
@pytest.mark.parametrize(
    "patches",
    [
        (None, bytes(7)),
        (None, bytes(9)),
        (None,),
        (None, None),
        (0, "text"),
        ("text", bytes(8)),
        (-1, bytes(8)),
        (NBYTES - 7, bytes(8)),
        (1 << 63, bytes(8)),
        [0, bytes(8)],
        bytes(8),
    ],
    ids=repr,
)
def test_damaged_patches(source, function, patches):
    """Wrong lengths, places and types are refused."""
    layout = encode(*ONE, flags=WRITEABLE | PRIVATE)
    with pytest.raises((TypeError, ValueError, OverflowError)):
        function(source, layout, None, patches)


@pytest.mark.needs_pagemap
@pytest.mark.parametrize("alone", [0, ALONE])
def test_patches_land_in_their_place(source, modified, alone):
    """Bytes of the map, of the elements, and next to each other."""
    layout = encode("S8", (3,), (16,), offset=16, flags=WRITEABLE | PRIVATE | alone)
    patches = (NBYTES - 8, b"the end.", 20, b"abcd", 24, b"efgh", 0, b"start...")
    array = _core.rebuild(source, layout, np.dtype("S8"), patches)
    before = np.fromfile(modified.filename, "S8")[2:8:2]
    assert array.tolist() == [before[0][:4].ljust(4, b"\0") + b"abcd", *before[1:]]
    # What is there already stays: in one message it is the same.
    patches = (22, b"cdefghij", 16, b"123456", 0, bytes(60))
    again = _core.rebuild(source, layout, np.dtype("S8"), patches)
    assert again[0] == b"1234abcd"
    elements = (None, b"12345678" * 3)
    array = _core.rebuild(source, layout, np.dtype("S8"), elements)
    assert array.tolist() == [b"12345678"] * 3


class Raised:
    """Adds one to its array as it is loaded."""

    def __init__(self, array):
        self.array = array

    def __setstate__(self, state):
        self.array = state["array"]
        self.array += 1


@pytest.mark.needs_pagemap
def test_written_while_the_message_is_read(modified):
    """What loads first may write: the modified bytes don't come over that again."""
    expected = modified[:9] + 1
    message = samemap.dumps((Raised(modified[:9]), modified[1:20]))
    raised, other = samemap.loads(message)
    assert np.shares_memory(raised.array, other)
    assert raised.array.tolist() == expected.tolist()
    assert other[:8].tolist() == expected[1:].tolist()
    assert other[8:].tolist() == modified[9:20].tolist()
