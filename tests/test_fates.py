"""What becomes of a mapped file, and what the worker gets then.

A fate befalls the file either before the task is sent, or in the moment between
the pickling of the array and its arrival: `Fate`, loaded before the array of the same
task, brings that about; in results it is `Doom`, pickled after the array.
"""

import gc
import mmap
import os
import time
from pathlib import Path

import numpy as np
import pytest
import samemap
from joblib import Parallel, delayed
from support import machine
from support.foreign import array_at, map_at

NBYTES = 8192
DATA = np.arange(NBYTES // 8, dtype=np.int64)


def unlink(path):
    path.unlink()


def rename(path):
    path.rename(path.with_name("renamed"))


def replace(path):
    other = path.with_name("other")
    (DATA + 1).tofile(other)
    other.replace(path)


def remake(path):
    """Remove and create again: the inode number may well be the same."""
    path.unlink()
    (DATA + 1).tofile(path)


def rewrite(path):
    """Write other values into the same file: the map shows them."""
    with path.open("r+b") as file:
        (DATA + 2).tofile(file)


def truncate(path):
    os.truncate(path, 100)


def grow(path):
    with path.open("ab") as file:
        file.write(b"more")


def move_directory(path):
    path.parent.rename(path.parent.with_name("moved"))


def leave_directory(path):
    os.chdir(path.parent.parent)


def hard_link(path):
    path.with_name("link").hardlink_to(path)
    path.unlink()


def become_fifo(path):
    path.unlink()
    os.mkfifo(path)


def become_device(path):
    path.unlink()
    path.symlink_to("/dev/zero")


def become_directory(path):
    path.unlink()
    path.mkdir()


class Fate:
    """Loading it does something to a file; it arrives as None.

    What is no array comes before all arrays in a batch of tasks.
    """

    def __init__(self, fate, path):
        self.fate, self.path = fate, path

    def __reduce__(self):
        return self.fate, (self.path,)


class Doom(Fate):
    """Pickling it does something to a file; it arrives as None."""

    def __reduce__(self):
        self.fate(self.path)
        return nothing, ()


def nothing():
    return None


def read(array, *_):
    return np.array(array)


def without_descriptor(path):
    """Nobody has the file open who maps it."""
    return array_at(map_at(path, NBYTES), NBYTES)


def memmap_without_descriptor(path):
    """An np.memmap whose mapping has lost its descriptor to something else."""
    array = np.memmap(path, np.int64, "r+")
    with open(os.devnull) as other:
        for entry in Path("/proc/self/fd").iterdir():
            if os.path.realpath(entry) == str(path):
                os.dup2(other.fileno(), int(entry.name))
    return array


def map_and_doom(path, fate, open_map=memmap_without_descriptor):
    """As a task: a result on the worker's own map of a file."""
    return open_map(path), Doom(fate, path)


def parallel(backend, function, *args):
    return Parallel(n_jobs=2, backend=backend)([delayed(function)(*args)] * 2)


@pytest.fixture
def path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    directory = tmp_path / "data"
    directory.mkdir()
    DATA.tofile(directory / "file")
    return directory / "file"


def by_memmap(path, mode="r+"):
    return np.memmap(path, np.int64, mode)


def by_mmap(path):
    with path.open("r+b") as file:
        return np.frombuffer(mmap.mmap(file.fileno(), 0), np.int64)


@pytest.mark.parametrize("open_map", [by_memmap, by_mmap])
@pytest.mark.parametrize(
    "fate",
    [
        unlink,
        rename,
        replace,
        remake,
        rewrite,
        grow,
        move_directory,
        leave_directory,
        hard_link,
        become_fifo,
    ],
)
def test_worker_reads_what_the_sender_sees(backend, path, fate, open_map):
    """Whatever became of the path, the mapped bytes arrive, uncopied if possible."""
    array = open_map(path)
    fate(path)
    keeps_name = fate in (rewrite, grow, leave_directory)
    has_path = keeps_name or fate in (rename, move_directory)
    reachable = machine.DESCRIPTORS or (machine.MAPS and has_path)
    if not machine.ASKS:
        # Then an np.memmap tells by itself, if the name that it has still leads there.
        reachable = open_map is by_memmap and keeps_name
    assert samemap.explain(array)["by_reference"] is reachable
    for result in parallel(backend, read, array[::-1]):
        np.testing.assert_array_equal(result, array[::-1])


def test_relative_path(backend, path, monkeypatch):
    """A map opened by a relative path is found after a change of directory."""
    monkeypatch.chdir(path.parent)
    array = np.memmap("file", np.int64, "r")
    monkeypatch.chdir("/")
    for result in parallel(backend, read, array):
        np.testing.assert_array_equal(result, DATA)


@pytest.mark.needs_maps
def test_truncated_before(backend, path):
    """A file shorter than its map is a typed error, and it is not grown."""
    array = by_memmap(path)
    truncate(path)
    with pytest.raises(samemap.BackingTruncatedError) as caught:
        parallel(backend, read, array)
    assert caught.value.path == str(path)
    assert caught.value.expected == f"at least {NBYTES} bytes"
    assert caught.value.found == "100 bytes"
    assert path.stat().st_size == 100
    assert parallel(backend, read, DATA)[0][1] == 1


@pytest.mark.needs_descriptors
@pytest.mark.parametrize(
    "fate", [unlink, rename, move_directory, replace, remake, become_fifo]
)
def test_found_on_the_way(backend, path, fate):
    """A file that loses its path after the pickling is had through the sender."""
    array = by_memmap(path)
    results = Parallel(n_jobs=2, backend=backend)(
        [delayed(read)(array[::-1], Fate(fate, path)), delayed(read)(array)]
    )
    np.testing.assert_array_equal(results, [DATA[::-1], DATA])


@pytest.mark.needs_maps
@pytest.mark.parametrize(
    ("fate", "error"),
    [
        (unlink, samemap.BackingNotFoundError),
        (rename, samemap.BackingNotFoundError),
        (move_directory, samemap.BackingNotFoundError),
        (replace, samemap.BackingReplacedError),
        (remake, samemap.BackingReplacedError),
        (truncate, samemap.BackingTruncatedError),
        (become_fifo, samemap.BackingReplacedError),
        (become_device, samemap.BackingReplacedError),
        (become_directory, samemap.BackingReplacedError),
    ],
)
def test_lost_on_the_way(backend, path, fate, error):
    """What happens after the pickling reaches the caller as its typed error."""
    array = without_descriptor(path)
    with pytest.raises(error) as caught:
        Parallel(n_jobs=2, backend=backend)(
            [delayed(read)(array, Fate(fate, path)), delayed(read)(DATA)]
        )
    assert type(caught.value) is error
    assert caught.value.path == str(path)
    assert caught.value.expected != caught.value.found
    assert parallel(backend, read, DATA)[0][1] == 1


class Message:
    """A message of its own within that of the task: the array, or None."""

    def __init__(self, array):
        self.message = samemap.dumps(array)

    def __reduce__(self):
        return load_or_none, (self.message,)


def load_or_none(message):
    try:
        return samemap.loads(message)
    except samemap.BackingNotFoundError:
        return None


@pytest.mark.needs_maps
def test_lost_in_an_inner_message(backend, path):
    """`loads` raises where it is called, also in the loading of a task."""
    inner = Message(without_descriptor(path))
    assert parallel(backend, isinstance, inner, np.ndarray) == [True] * 2
    path.unlink()
    assert parallel(backend, isinstance, inner, np.ndarray) == [False] * 2


class Demanding:
    """Can be built of a right array only, and looks at it at once."""

    def __init__(self, array):
        self.array = array

    def __setstate__(self, state):
        self.array = state["array"]
        if self.array.tolist() != DATA.reshape(2, -1, order="F").tolist():
            raise AssertionError("another array")


def last(*arguments):
    return read(arguments[-1].array)


@pytest.mark.parametrize(
    "early", [pytest.param(False, marks=pytest.mark.needs_maps), True]
)
def test_lost_within_an_object(backend, path, early):
    """An object that looks at its array while it is built raises no other error."""
    array = without_descriptor(path).reshape(2, -1, order="F")
    for result in parallel(backend, last, Demanding(array)):
        np.testing.assert_array_equal(result, array)
    fate = Fate(truncate, path)
    if early:
        truncate(path)
    with pytest.raises(samemap.BackingTruncatedError):
        parallel(backend, last, fate, Demanding(array))
    assert parallel(backend, read, DATA)[0][1] == 1


def return_demanding(path):
    """As a task: a result that can't be built when it arrives."""
    array = memmap_without_descriptor(path).reshape(2, -1, order="F")
    return Demanding(array), Doom(replace, path)


@pytest.mark.needs_maps
def test_lost_within_the_object_of_a_result(backend, path):
    """Nor does one that is a result."""
    with pytest.raises(samemap.BackingReplacedError):
        Parallel(n_jobs=2, backend=backend)([delayed(return_demanding)(path)])
    assert parallel(backend, read, DATA)[0][1] == 1


@pytest.mark.needs_maps
@pytest.mark.parametrize(
    ("fate", "error"),
    [
        (unlink, samemap.BackingNotFoundError),
        (replace, samemap.BackingReplacedError),
        (truncate, samemap.BackingTruncatedError),
        (become_fifo, samemap.BackingReplacedError),
    ],
)
def test_result_lost_on_the_way(backend, path, fate, error):
    """A result that can't be had raises its typed error in the caller."""
    with pytest.raises(error):
        Parallel(n_jobs=2, backend=backend)([delayed(map_and_doom)(path, fate)])
    assert parallel(backend, read, DATA)[0][1] == 1


@pytest.mark.parametrize("fate", [unlink, replace, truncate, become_fifo])
@pytest.mark.parametrize("open_map", [by_mmap, without_descriptor])
def test_copied_result(backend, path, fate, open_map):
    """A result in a map that is no np.memmap needs no file any more."""
    [(result, _)] = Parallel(n_jobs=2, backend=backend)(
        [delayed(map_and_doom)(path, fate, open_map)]
    )
    np.testing.assert_array_equal(result, DATA)


def map_and_raise(path):
    """As a task: an exception with an array of the worker's own."""
    raise KeyError(*map_and_doom(path, unlink))


@pytest.mark.needs_maps
def test_exception_lost_on_the_way(backend, path):
    """So does the array of an exception; the worker's traceback is the cause."""
    with pytest.raises(samemap.BackingNotFoundError) as caught:
        Parallel(n_jobs=2, backend=backend)([delayed(map_and_raise)(path)])
    assert "in map_and_raise" in str(caught.value.__cause__)
    assert parallel(backend, read, DATA)[0][1] == 1


def change_and_return(array, path):
    array[3] = 33
    path.unlink()
    return array[::-1]


def private_without_descriptor(path):
    prot, flags = mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_PRIVATE
    return array_at(map_at(path, NBYTES, prot=prot, flags=flags), NBYTES)


@pytest.mark.needs_maps
@pytest.mark.parametrize(
    "open_map", [lambda path: by_memmap(path, "c"), private_without_descriptor]
)
def test_private_result_of_a_file_that_is_gone(backend, path, open_map):
    """A private map has no double in the caller to come back to: it is copied."""
    array = open_map(path)
    expected = DATA.copy()
    expected[3] = 33
    [result] = Parallel(n_jobs=2, backend=backend)(
        [delayed(change_and_return)(array, path)]
    )
    np.testing.assert_array_equal(result, expected[::-1])
    np.testing.assert_array_equal(array, DATA)


@pytest.mark.needs_maps
@pytest.mark.parametrize("open_map", [by_memmap, by_mmap, without_descriptor])
def test_result_of_a_file_that_is_gone(backend, path, open_map):
    """Whatever became of the file meanwhile: the result is there, and the caller's
    to keep."""
    array = open_map(path)
    [result] = Parallel(n_jobs=2, backend=backend)(
        [delayed(unlink_and_return)(array, path)]
    )
    assert not np.shares_memory(result, array)
    assert type(result) is type(array)
    np.testing.assert_array_equal(result, DATA[::-1])
    if open_map is by_memmap:
        array._mmap.close()
    np.testing.assert_array_equal(result, DATA[::-1])


def unlink_and_return(array, path):
    path.unlink()
    return array[::-1]


@pytest.mark.needs_maps
def test_same_inode_number_again(backend, path):
    """A new file with the old inode number is not taken for the old one."""
    number = path.stat().st_ino
    array = by_memmap(path)
    message = samemap.dumps(array)
    del array
    for _ in range(100):
        remake(path)
        if path.stat().st_ino == number:
            break
    else:
        pytest.skip("the file system does not use inode numbers again")
    with pytest.raises(samemap.BackingReplacedError):
        parallel(backend, samemap.loads, message)


def test_closed_on_the_way(backend, tmp_path):
    """An array nobody else holds is kept until the worker has answered."""
    tasks = (delayed(read)(anonymous_file(tmp_path, i)) for i in range(20))
    results = Parallel(n_jobs=2, backend=backend)(tasks)
    assert [int(r[0]) for r in results] == list(range(20))


def fail(array):
    raise ZeroDivisionError


@pytest.mark.needs_maps
def test_let_go_after_an_error(backend, tmp_path):
    """A call that has failed keeps no map: files without names are gone."""
    tasks = (delayed(fail)(anonymous_file(tmp_path, i)) for i in range(20))
    with pytest.raises(ZeroDivisionError):
        Parallel(n_jobs=2, backend=backend)(tasks)
    del tasks
    # The pool's threads may be about to let go of the last tasks.
    end = time.monotonic() + 10
    while is_mapped_below(tmp_path) and time.monotonic() < end:
        gc.collect()
    assert not is_mapped_below(tmp_path)


def is_mapped_below(folder):
    return str(folder) in Path("/proc/self/maps").read_text()


def anonymous_file(directory, value):
    """A map of a file that has lost its name."""
    path = Path(directory, f"unnamed{value}")
    array = np.memmap(path, np.int64, "w+", shape=(10,))
    array[:] = value
    path.unlink()
    return array


@pytest.mark.needs_maps
@pytest.mark.parametrize("mode", ["r", "c"])
def test_no_more_than_asked(backend, path, mode):
    """A worker can't write through a map that the sender couldn't write to."""
    array = by_memmap(path, mode)
    assert parallel(backend, can_be_made_writeable, array) == [mode == "c"] * 2
    np.testing.assert_array_equal(np.fromfile(path, np.int64), DATA)


def can_be_made_writeable(array):
    array.flags.writeable = False
    try:
        array.flags.writeable = True
    except ValueError:
        return False
    array[:] = -1
    return True
