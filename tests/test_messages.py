"""A message under way: its errors, its phases, and what it holds."""

import os
import threading

import numpy as np
import pytest
import samemap
from samemap import _core, _envelope
from support.foreign import array_at, map_at
from support.references import backing, elsewhere, reference

pytestmark = pytest.mark.needs_maps


@pytest.fixture
def array(tmp_path):
    return np.memmap(tmp_path / "data", np.float64, "w+", shape=(1000,))


def test_errors_are_raised(tmp_path):
    """What can't be sent or loaded is raised at once, within a message or not."""
    array = np.memmap(tmp_path / "data", np.float64, "w+", shape=(1000,))
    reduce = _core.Reducer().reduce
    arguments = reference(array)
    good = samemap.dumps(array)
    os.truncate(array.filename, 10)
    found = []

    def attempt(function, *args, **kwargs):
        try:
            function(*args, **kwargs)
        except samemap.BackingError as error:
            found.append(type(error))

    for message in (None, _core.Outgoing()):
        attempt(reduce, array)
        attempt(samemap.loads, good)
        attempt(elsewhere, arguments, path=b"/gone")
        assert message is None or message.close() == 0
    expected = [samemap.BackingTruncatedError] * 2 + [samemap.BackingNotFoundError]
    # Not the array, of which a failing test would print what isn't there.
    del array
    assert found == expected * 2


def test_error_within_a_container(array):
    """A class that looks at its array while it is loaded does not get to see one."""
    message = samemap.dumps(Checks(array))
    array._mmap.close()
    os.unlink(array.filename)
    with pytest.raises(samemap.BackingNotFoundError):
        samemap.loads(message)


class Checks:
    """Looks at its array whenever it is loaded."""

    def __init__(self, array):
        self.array = array

    def __setstate__(self, state):
        assert state["array"].sum() == 0
        self.__dict__.update(state)


def test_wrong_types():
    """What holds is a list, what is sent are arrays, and tasks a list of triples."""
    with pytest.raises(TypeError, match="list"):
        _core.Outgoing(held=())
    with pytest.raises(TypeError, match="expected an array"):
        _core.Reducer().reduce([1])
    message = _core.Outgoing()
    with pytest.raises(TypeError):
        message.objects((), {})
    with pytest.raises(TypeError):
        message.objects([])


def test_one_batch_a_message(array):
    """The tasks of a message are looked through once."""
    message = _core.Outgoing()
    tasks = [(len, (array,), {})]
    assert message.objects(tasks, {np.memmap}) == ([], [len], [])
    with pytest.raises(RuntimeError, match="one batch"):
        message.objects(tasks, {np.memmap})
    assert message.close() == 0


def test_what_tasks_hold(array):
    """Found are arguments, and what is in exact lists, tuples and dicts of them;
    everything else is an object, of one task or several, and named once."""

    class Fields(list):
        pass

    holder, fields, other = Checks(array), Fields([array]), Checks(array)
    objects = np.array([array, None], dtype=object)
    records = array.view(np.recarray)
    looped = [array]
    looped.append(looped)
    tasks = [
        (len, ([{"x": (array, 1, "s", None)}], holder), {"y": fields}),
        (len, (holder, other, objects, other), {"y": records, "z": looped}),
    ]
    message = _core.Outgoing()
    shared, own, others = message.objects(tasks, {np.ndarray, np.memmap})
    assert [id(each) for each in shared] == [id(each) for each in [len, holder]]
    assert [id(each) for each in own] == [id(each) for each in [fields, other, objects]]
    assert others == [np.recarray]
    message.enter(_envelope._TASKS)
    copies = [array[:3], records[:3]]
    assert [_core.is_own(each) for each in [array, records, *copies]] == [2, 1, 1, 1]
    assert [message.is_shared(each) for each in [array, records, holder]] == [1, 0, 1]
    message.close()
    assert _core.is_own(array) == 0


@pytest.mark.needs_pagemap
def test_phases(tmp_path):
    """A private map is rebuilt with its object, and pending in a batch's tasks."""
    path = tmp_path / "private"
    path.write_bytes(bytes(800))
    array = np.memmap(path, np.float64, "c")
    reduce = _core.Reducer(None, 100).reduce
    message = _core.Outgoing()
    assert reduce(array)[0] is _core.rebuild
    message.objects([(len, (array,), {})], {})
    assert reduce(array)[0] is _core.rebuild
    assert not message.is_entangled()
    message.enter(_envelope._OWN_OBJECTS)
    assert reduce(array[:3])[0] is _core.rebuild
    assert not message.is_entangled()
    reduce(array)
    assert message.is_entangled()
    message.enter(_envelope._TASKS)
    assert reduce(array)[0] is _core.pending
    assert reduce(np.asarray(array)[:3])[0] is _core.pending
    assert message.close() == 2
    for phase in (0, 5, -1):
        with pytest.raises(ValueError, match="phase"):
            message.enter(phase)


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
