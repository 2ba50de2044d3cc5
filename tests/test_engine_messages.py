"""Messages of engines: references where stock sends copies, and what those protect."""

import copy
import os
import pickle

import numpy as np
import psutil
import pytest
import samemap
from samemap import _core
from support import layouts
from support.engine_messages import dumps, sent
from support.equality import differences, fingerprint, same_file
from support.kinds import COUNT, KINDS, plain
from support.scripts import run_script

PROTOCOLS = [4, 5]

# What has a path that leads there.
WITH_PATH = ["memmap r+", "memmap w+", "memmap c", "ndarray of memmap r+", "mmap"]
WITHOUT_PATH = ["memmap of a TemporaryFile", "mmap of an unlinked file", "memfd"]


def is_reference(message):
    return b"samemap._core" in message


@pytest.mark.needs_pagemap
@pytest.mark.parametrize("expression", layouts.FILES + layouts.PRIVATE)
def test_files_arrive_as_they_are(tmp_path, expression):
    """Type, layout, flags, attributes and bytes are the sender's, however opened."""
    array = layouts.open_file(tmp_path, expression)
    arrived = sent(array, lasting=False)
    assert not differences(fingerprint(array), fingerprint(arrived))


@pytest.mark.needs_maps
@pytest.mark.parametrize("expression", layouts.VIEWS)
def test_views_arrive_as_they_are(tmp_path, expression):
    """Every view of an np.memmap of mode r+ keeps its layout on private pages."""
    path = tmp_path / "data"
    path.write_bytes(layouts.random_bytes())
    array = layouts.view(layouts.by_memmap(path), expression)
    assert not differences(fingerprint(array), fingerprint(sent(array)))


@pytest.mark.needs_descriptors
@pytest.mark.needs_pagemap
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("lasting", [True, False])
def test_nothing_is_written_through(make, kind, lasting):
    """Whatever memory it is: writeable as sent, and the sender never sees a write."""
    array = make(kind)
    arrived = sent(array, lasting=lasting)
    before = np.array(plain(array))
    assert type(arrived) is type(array)
    np.testing.assert_array_equal(plain(arrived), before)
    assert plain(arrived).flags.writeable == plain(array).flags.writeable
    if plain(arrived).flags.writeable:
        plain(arrived)[...] = -1
    np.testing.assert_array_equal(plain(array), before)


@pytest.mark.needs_maps
@pytest.mark.parametrize("kind", WITH_PATH)
def test_by_path(make, kind):
    """What a path leads to is named by that alone, and outlives its sender's array."""
    array = make(kind)
    before, message = np.array(array), dumps(array)
    assert is_reference(message)
    assert b"/proc/" not in message
    del array
    np.testing.assert_array_equal(pickle.loads(message), before)


@pytest.mark.needs_descriptors
@pytest.mark.parametrize("kind", WITHOUT_PATH)
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_without_a_path(make, kind, protocol):
    """A message that lasts has stock's own bytes; one that is held a reference."""
    array = make(kind)
    assert dumps(array, protocol) == pickle.dumps(array, protocol)
    held = []
    message = dumps(array, protocol, held, lasting=False)
    assert is_reference(message)
    assert held
    np.testing.assert_array_equal(pickle.loads(message), array)


OWN_MEMORY = [
    "np.arange(5)",
    "np.arange(24.).reshape(4, 6).T",
    "np.arange(24.)[::-3]",
    "np.arange(24, dtype='>i2')",
    "np.broadcast_to(np.arange(4), (3, 4))",
    "np.array([{}, 'text', None], object)",
    "np.zeros(3, 'S0')",
    "np.zeros((3, 0))",
    "np.arange(20000)",
    "np.ma.masked_less(np.arange(9), 4)",
    "np.rec.array([(1, 'a'), (2, 'b')])",
    "np.arange(4).view(np.memmap)",
]


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("expression", OWN_MEMORY)
def test_ordinary_memory_is_stock(expression, protocol):
    """What is not mapped is pickled as without samemap, byte for byte."""
    array = eval(expression)
    assert dumps(array, protocol) == pickle.dumps(array, protocol)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_guests_in_ordinary_memory(protocol):
    """pandas' frames in ordinary memory are read by every protocol."""
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(
        {"a": np.arange(5), "b": np.arange(5.0), "c": list("abcde")}
    )
    pandas.testing.assert_frame_equal(sent(frame, protocol=protocol), frame)


@pytest.mark.needs_maps
def test_arrays_of_one_message_are_apart(memmap_path):
    """Two arrays of one map don't see each other's writes, as two copies don't."""
    array = np.memmap(memmap_path, np.float64, "r+")
    first, second, again = sent([array, array[:10], array])
    first[:] = -1
    np.testing.assert_array_equal(second, array[:10])
    assert again is first


@pytest.mark.needs_maps
def test_each_load_has_its_own(memmap_path):
    """A message that is read twice gives two arrays, each with the file's content."""
    array = np.memmap(memmap_path, np.float64, "r+")
    message = dumps(array)
    pickle.loads(message)[:] = -1
    np.testing.assert_array_equal(pickle.loads(message), array)


@pytest.mark.needs_pagemap
def test_written_pages_travel(memmap_path):
    """Pages of a private map that were written go along, and on from there."""
    array = np.memmap(memmap_path, np.float64, "c")
    array[1000:2000] = -array[1000:2000]
    arrived = sent(array)
    np.testing.assert_array_equal(arrived, array)
    arrived[5] = 55
    np.testing.assert_array_equal(sent(arrived), arrived)
    assert array[5] == 5


@pytest.mark.needs_pagemap
def test_written_pages_of_several_views(memmap_path):
    """Views of one private map all show what was written, each on its own pages."""
    array = np.memmap(memmap_path, np.float64, "c")
    array[::7] = -1
    views = [array[:4000], array[2000:], array[::-3], array[10:20]]
    for view, arrived in zip(views, sent(views), strict=True):
        np.testing.assert_array_equal(arrived, view)


@pytest.mark.needs_descriptors
def test_memory_made_to_be_shared(tmp_path):
    """Memory of `samemap.zeros` is the same for both, while its maker keeps it."""
    array = samemap.zeros(COUNT)
    for lasting in (True, False):
        assert same_file(array, sent(array, lasting=lasting))
    message = dumps(array)
    del array
    with pytest.raises(samemap.BackingError):
        pickle.loads(message)


@pytest.mark.needs_maps
@pytest.mark.parametrize("kind", ["memmap r+", "mmap", "SharedMemory"])
def test_write_through(make, kind):
    """With that option writable maps are shared, whoever made them."""
    array = make(kind)
    assert same_file(array, sent(array, write_through=True))


@pytest.mark.needs_maps
def test_results(memmap_path, tmp_path):
    """An np.memmap that nobody can write through goes by reference; all else is copied.

    A worker may write to its scratch file again as soon as the result was sent.
    """
    scratch = np.memmap(tmp_path / "scratch", np.float64, "w+", shape=(COUNT,))
    read_only = np.memmap(memmap_path, np.float64, "r")
    argument = sent(np.memmap(memmap_path, np.float64, "r+"))
    argument[3] = 33
    for array, by_reference in [
        (scratch, False),
        (scratch[::2], False),
        (read_only, True),
        (argument, True),
        (np.frombuffer(memoryview(read_only)), True),
        (sent(samemap.zeros(COUNT), lasting=False), False),
    ]:
        message = dumps(array, backward=True)
        assert is_reference(message) == by_reference
        np.testing.assert_array_equal(pickle.loads(message), array)
    message = dumps(scratch, backward=True)
    scratch[:] = 1
    assert not pickle.loads(message).any()


@pytest.mark.needs_maps
@pytest.mark.parametrize(
    ("change", "error"),
    [
        (lambda path: path.unlink(), samemap.BackingNotFoundError),
        (lambda path: os.truncate(path, 100), samemap.BackingTruncatedError),
        (
            lambda path: (path.unlink(), path.write_bytes(bytes(COUNT * 8))),
            samemap.BackingReplacedError,
        ),
    ],
    ids=["gone", "truncated", "replaced"],
)
def test_file_changes_on_the_way(memmap_path, change, error):
    """A file that isn't there any more is a typed error, never other data."""
    message = dumps(np.memmap(memmap_path, np.float64, "r+"))
    change(memmap_path)
    with pytest.raises(error) as raised:
        pickle.loads(message)
    assert raised.value.path == os.fspath(memmap_path)


@pytest.mark.needs_maps
def test_file_was_truncated_before(memmap_path):
    """The sender learns it as an error, where a copy would have crashed."""
    array = np.memmap(memmap_path, np.float64, "r+")
    os.truncate(memmap_path, 100)
    with pytest.raises(samemap.BackingTruncatedError):
        dumps(array)


@pytest.mark.needs_maps
@pytest.mark.parametrize("own", [memoryview, np.asarray], ids=["mmap", "memmap"])
def test_file_is_larger_than_memory(tmp_path, own):
    """A view of a writable file of four times the memory is no more than its pages."""
    path, size = tmp_path / "large", 4 * psutil.virtual_memory().total
    path.touch()
    try:
        os.truncate(path, size)
    except OSError:
        pytest.skip("the file system has no such files")
    array = np.memmap(path, np.uint8, "r+")
    array[5] = 55
    if own is memoryview:
        array = np.frombuffer(array._mmap, np.uint8)
    for view in (array[:10], array):
        arrived = sent(view)
        arrived[6] = 66
        assert arrived[5] == 55
    assert array[6] == 0
    assert samemap.loads(samemap.dumps(array[:10]))[5] == 55


@pytest.mark.needs_maps
def test_process_may_not_have_the_map(tmp_path):
    """Where the limit of a process forbids the map the view's bytes are read."""
    source = """
        import pickle, resource, sys
        import numpy as np
        import samemap
        from support.engine_messages import dumps

        array = np.memmap(sys.argv[1], np.uint8, "w+", shape=(1 << 32,))
        array[100:200] = range(100)
        message, whole = dumps(array[100:200]), dumps(array)
        data = 1 << 28
        resource.setrlimit(resource.RLIMIT_DATA, (data, data))
        arrived = pickle.loads(message)
        assert arrived.tolist() == list(range(100))
        arrived[0] = 5
        assert array[100] == 0
        assert type(arrived) is np.memmap
        try:
            pickle.loads(whole)
        except MemoryError:
            print("no memory")
    """
    assert run_script(source, tmp_path / "large") == "no memory\n"


def test_reducer_is_pickled_with_its_options():
    """A table that travels to a worker keeps what it was made with."""
    options = (None, None, False, False, True, False, True, True, 4)
    assert _core.Reducer(*options).__reduce__() == (_core.Reducer, options)
    reducer = copy.copy(_core.Reducer(isolated=True, lasting=True, protocol=4))
    assert reducer.__reduce__()[1] == options
    with pytest.raises(ValueError, match="protocol"):
        _core.Reducer(protocol=-1)
