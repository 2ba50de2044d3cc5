"""Batches whose tasks are parts of the message: what they share goes once."""

import numpy as np
import pytest
from joblib import delayed
from samemap._batches import loky_pickler, pool_pickler
from samemap._envelope import Writer, read_tasks
from samemap._tables import Options, make_table
from support.batches import run_in_batches

MEGABYTE = 1 << 20


class Holder:
    """Leads to an array that is an argument too: such tasks are parts."""

    def __init__(self, array, **attributes):
        self.array = array
        self.__dict__.update(attributes)

    def has(self, array):
        return self.array is array

    def has_all(self, array, inner, objects):
        array += 1
        return (
            self.array is array
            and (array == 1).all()
            and self.objects["inner"] is inner
            and self.objects is objects
            and self.objects["cycle"] is objects
        )

    def has_within(self, array, outer, inner):
        return self.array is array and outer.inner is inner


class Outer:
    def __init__(self, inner):
        self.inner = inner


SHARED = {
    "bytes": bytes(MEGABYTE),
    "str": "x" * MEGABYTE,
    "dict": {number: str(number) for number in range(60_000)},
    "object": Outer(bytes(MEGABYTE)),
    "array": np.zeros(MEGABYTE, np.uint8),
    "object array": np.array([bytes(MEGABYTE), None], object),
}


@pytest.mark.parametrize("kind", SHARED)
@pytest.mark.parametrize("pickler", [pool_pickler, loky_pickler])
def test_what_parts_share_goes_once(kind, pickler):
    """A batch is no larger for the number of tasks that hold the same object."""
    shared, array = SHARED[kind], np.zeros(10)
    tasks = [(Holder(array, shared=shared).has, (array,), {}) for _ in range(20)]
    message = Writer(pickler, make_table(Options(), stock=None)).write_tasks(tasks)
    _, _, data, parts = message
    assert parts is not None
    assert len(data) + sum(len(part) for part, _ in parts) < 2 * MEGABYTE
    assert all(run(*args) for run, args, _ in read_tasks(message))


@pytest.mark.parametrize("batch_size", [1, 4])
def test_paths_of_parts(backend, batch_size):
    """Objects that parts share, or one holds, are one on all paths to them."""
    array, inner = np.zeros(10), [1, 2, 3]
    objects = {"inner": inner}
    objects["cycle"] = objects
    tasks = [
        delayed(Holder(array, objects=objects).has_all)(array, inner, objects)
        for _ in range(8)
    ]
    assert run_in_batches(backend, batch_size, tasks) == [True] * 8


@pytest.mark.parametrize("batch_size", [1, 4])
def test_inner_object_of_a_shared_one(backend, batch_size):
    """An argument that a shared object holds is that object's in the task as well."""
    array, inner = np.zeros(10), [1, 2, 3]
    outer = Outer(inner)
    tasks = [
        delayed(Holder(array).has_within)(array, outer, inner if number % 4 else [])
        for number in range(8)
    ]
    expected = [bool(number % 4) for number in range(8)]
    assert run_in_batches(backend, batch_size, tasks) == expected


def test_object_array_of_several_parts(backend):
    """An object array given to all tasks is found where they look for it."""
    objects = np.array([1, None], object)
    tasks = []
    for _ in range(8):
        array = np.zeros(10)
        holder, outer = Holder(array), Outer(objects)
        tasks.append(delayed(holder.has_within)(array, outer, objects))
    assert run_in_batches(backend, 4, tasks) == [True] * 8
