"""A message under way: its errors, its phases, and what it holds."""

import os
import threading

import numpy as np
import pytest
import samemap
from samemap import _core, _envelope
from samemap._batches import pool_pickler
from samemap._envelope import Writer, read_tasks
from samemap._tables import Options, make_table
from support.foreign import array_at, map_at
from support.references import backing, elsewhere, reference, token

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


@pytest.mark.parametrize("cls", [np.memmap, np.ndarray, np.recarray])
def test_objects_lead_to_arguments(array, cls):
    """In a batch of parts each task finds one object on all ways to an array, and
    one that other tasks have only where they have it by an object of theirs."""
    first, second, third = (array[i : i + 9].view(cls) for i in range(3))
    common, own = Checks(first), Checks(second)
    tasks = [
        (compare, (common, first, own, second), {}),
        (compare, (common, first, Checks(third), third), {}),
        (compare, (common, first, common, first), {}),
        (compare, (own.array, second, third, third), {}),
    ]
    writer = Writer(pool_pickler, make_table(Options(), max_nbytes=1000))
    message = writer.write_tasks(tasks, [])
    assert message[3] is not None
    loaded = read_tasks(message)
    assert [function(*args, **kwargs) for function, args, kwargs in loaded] == [4] * 4


def compare(*things):
    """As a task: count the ways that lead to the same array as the next one."""
    arrays = [getattr(thing, "array", thing) for thing in things]
    same = [arrays[i] is arrays[i + 1] for i in (0, 2)]
    return 2 * sum(same)


@pytest.mark.needs_pagemap
def test_parts_have_all_bytes(tmp_path):
    """What is modified in a private map is in each part that needs it."""
    path = tmp_path / "private"
    path.write_bytes(bytes(800))
    array = np.memmap(path, np.float64, "c")
    array[:] = 7
    views = array[:3], array[::2], array[1:2]
    tasks = [
        (add_up, (views[0], Box(views[0]), views[2]), {}),
        (add_up, (views[0], array, views[1]), {}),
        (add_up, (views[0], views[2], array), {}),
    ]
    writer = Writer(pool_pickler, make_table(Options(), max_nbytes=1000))
    message = writer.write_tasks(tasks, [])
    assert message[3] is not None
    data = [message[2].replace(token(array)[:8], b"elsewher")]
    parts = [(p.replace(token(array)[:8], b"elsewher"), n) for p, n in message[3]]
    loaded = read_tasks((*message[:2], *data, parts))
    found = [function(*args, **kwargs) for function, args, kwargs in loaded]
    assert found == [function(*args, **kwargs) for function, args, kwargs in tasks]


class Box:
    """Leads to an array."""

    def __init__(self, array):
        self.array = array


def add_up(*things):
    return [float(getattr(thing, "array", thing).sum()) for thing in things]


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
