"""A message under way: what it notes, carries and holds."""

import os
import threading

import numpy as np
import pytest
import samemap
from samemap import _core
from support.foreign import array_at, map_at
from support.references import backing, elsewhere, reference

pytestmark = pytest.mark.needs_maps


@pytest.fixture
def array(tmp_path):
    return np.memmap(tmp_path / "data", np.float64, "w+", shape=(1000,))


@pytest.fixture
def attach_gone(array):
    """Return a function that can't find the file of a message."""
    arguments = reference(array)
    return lambda: elsewhere(arguments, path=b"/gone")


def raised(error):
    """An exception as it is caught: with a traceback."""
    try:
        raise error
    except type(error) as caught:
        return caught


def test_first_error_counts(attach_gone):
    """Of several errors the first is kept; each is given in place of its object."""
    message = _core.incoming()
    first = _core.note(ValueError("first"))
    assert type(attach_gone()) is samemap.BackingNotFoundError
    assert message.close() is first


def test_noted_errors_keep_no_frames():
    """A traceback would keep all that was on the stack, maps too."""
    message = _core.incoming()
    assert _core.note(raised(ValueError("x"))).__traceback__ is None
    assert message.close().__traceback__ is None


def test_no_message(attach_gone):
    """Where nobody would look at a note, the error is raised."""
    with pytest.raises(samemap.BackingNotFoundError):
        attach_gone()
    with pytest.raises(ValueError, match="x"):
        _core.note(ValueError("x"))


def test_closed_message(attach_gone):
    """A message that was closed takes no notes, though it still exists."""
    message = _core.incoming()
    assert message.close() is None
    with pytest.raises(samemap.BackingNotFoundError):
        attach_gone()
    assert message.close() is None


def test_messages_in_messages(attach_gone):
    """The innermost message takes the note, and the outer one the next."""
    outer = _core.incoming()
    inner = _core.incoming()
    attach_gone()
    assert type(inner.close()) is samemap.BackingNotFoundError
    error = _core.note(KeyError("x"))
    assert outer.close() is error


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(3)])
def test_interruptions_are_not_noted(error):
    """What ends a program ends it, while a message is read, too."""
    message = _core.incoming()
    with pytest.raises(type(error)):
        _core.note(error)
    assert message.close() is None


def test_errors_that_are_carried(array):
    """With `carries` the reader raises what the sender met; else the sender does."""
    reduce = _core.Reducer().reduce
    os.truncate(array.filename, 10)
    message = _core.Outgoing(carries=True)
    function, arguments = reduce(array)
    del message
    with pytest.raises(samemap.BackingTruncatedError):
        function(*arguments)
    message = _core.Outgoing()
    with pytest.raises(samemap.BackingTruncatedError):
        reduce(array)
    del message
    incoming = _core.incoming()
    stand_in = function(*arguments)
    assert type(incoming.close()) is samemap.BackingTruncatedError
    assert (stand_in.shape, stand_in.dtype) == (array.shape, array.dtype)
    assert not stand_in.any()


def test_array_in_place_of_one_that_is_lost(attach_gone):
    """What is read after an error finds an array, of zeros."""
    message = _core.incoming()
    array = _core.rebuild(attach_gone(), b"\1\x0c\1\0\5\x10")
    assert (type(array), array.dtype, array.tolist()) == (np.ndarray, "f8", [0] * 5)
    assert type(message.close()) is samemap.BackingNotFoundError


def test_wrong_types():
    """Notes are exceptions, and what holds is a list."""
    with pytest.raises(TypeError, match="exception"):
        _core.note("error")
    with pytest.raises(TypeError, match="list"):
        _core.Outgoing(held=())


def test_map_is_held(array):
    """The map of each array of a message is held once."""
    held = []
    message = _core.Outgoing(held=held)
    first, second = backing(array), backing(array[::2])
    assert first is second
    first.__reduce__()
    assert held == [array._mmap]
    del message


def test_held_by_its_own_thread(array):
    """What one thread sends is held by its message, not by a later one's."""
    mine, theirs = [], []
    begun, done = threading.Event(), threading.Event()

    def send():
        message = _core.Outgoing(held=theirs)
        begun.set()
        done.wait(timeout=60)
        del message

    message = _core.Outgoing(held=mine)
    thread = threading.Thread(target=send)
    thread.start()
    begun.wait(timeout=60)
    reference(array)
    done.set()
    thread.join()
    assert (mine, theirs) == ([array._mmap], [])
    del message


def test_lost_before_its_own_reduction(array):
    """A file that is cut after the view was reduced is the sender's typed error."""
    named = backing(array)
    os.truncate(array.filename, 10)
    with pytest.raises(samemap.BackingTruncatedError):
        named.__reduce__()


def test_unreachable_before_its_own_reduction(tmp_path):
    """Likewise one that has lost its name, without a descriptor to reach it by."""
    path = tmp_path / "data"
    path.write_bytes(bytes(8000))
    array = array_at(map_at(path, 8000), 8000)
    named = backing(array)
    path.unlink()
    with pytest.raises(samemap.BackingNotFoundError) as caught:
        named.__reduce__()
    assert str(path) in caught.value.path


def test_objects_are_not_mapped(array):
    """References to Python objects are nobody else's, wherever they lie."""
    assert _core.is_mapped(array)
    assert not _core.is_mapped(np.array([{}]))
    assert not _core.is_mapped(array + 1)
