"""The contract: who sees what a task writes into its arguments.

All cases of one pool and batch size are tasks of one call of `Parallel`, so that
tasks of many kinds of memory meet in one batch. For the kinds see `support.kinds`.
"""

import functools
import os
import uuid
from collections import defaultdict
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import samemap
from joblib import delayed
from samemap import _core
from support.batches import run_in_batches
from support.kinds import KINDS, MEMORY, OWN, READ_ONLY, SHARED, plain
from support.machine import DESCRIPTORS as EXPORTS

MAX_NBYTES = 4096
SIZES = {"small": 100, "large": 1000}  # numbers of 8 bytes
TASKS = 6

POOLS = ["loky", "multiprocessing"]
BATCH_SIZES = [pytest.param(1, marks=pytest.mark.long), 10, "auto"]

THE_TASKS_OWN = ([0], [1])
REFUSED = ([0], "read-only")
WRITTEN_THROUGH = ([0], "written")


def windows(array, number):
    return array[number : array.size - TASKS + number], number


def same(array, number):
    return array, 0


def in_new_containers(array, number):
    return {"x": (number, [array])}, 0


def in_one_container(array, number):
    return array, 0  # `array` is the container, see `arrange`


GIVINGS = [windows, same, in_new_containers, in_one_container]


def arrange(giving, array):
    """Return what `giving` makes the arguments of each task from."""
    return [(array, {})] if giving is in_one_container else array


def find(given):
    """Return the array in nested containers."""
    while not isinstance(given, np.ndarray):
        parts = given.values() if isinstance(given, dict) else given
        given = next(
            p for p in parts if isinstance(p, np.ndarray | dict | tuple | list)
        )
    return given


def off(numbers, start):
    """By how much numbers differ from `start`, `start` + 1, ...: [0] if not at all."""
    return np.unique(numbers - np.arange(start, start + numbers.size))[:9].tolist()


def write(given, start, number, shared):
    """As a task: write, and tell what was there before and is there afterwards.

    In what is shared each task writes one number, its own; else it writes all.
    """
    numbers = plain(find(given))
    before = off(numbers[TASKS:] if shared else numbers, start + TASKS * shared)
    try:
        if shared:
            numbers[number - start] = -1 - number
            return before, "written"
        numbers += 1
    except ValueError:
        return before, "read-only"
    return before, off(numbers, start)


@dataclass
class Case:
    """An array, what was told by the tasks that got it, and who saw their writes."""

    kind: str
    size: str
    giving: Any
    array: Any
    path: Any
    found: Any = None
    caller: Any = None
    file: Any = None

    @property
    def shared(self):
        return KINDS[self.kind].writes == SHARED

    def numbers_after(self):
        numbers = np.arange(SIZES[self.size])
        if self.shared:
            numbers[:TASKS] = np.arange(-1, -1 - TASKS, -1)
        return numbers

    def expected(self):
        writes = KINDS[self.kind].writes
        if writes == MEMORY:
            writes = OWN if self.size == "small" or EXPORTS else READ_ONLY
        outcome = {OWN: THE_TASKS_OWN, READ_ONLY: REFUSED, SHARED: WRITTEN_THROUGH}
        return [outcome[writes]] * TASKS

    def faults(self):
        """Yield what is not as the contract says."""
        if self.found != self.expected():
            yield f"tasks told {self.found}"
        if not np.array_equal(self.caller, self.numbers_after()):
            yield f"the caller sees {self.caller[:9]}"
        before, after = self.file
        if self.shared and after is not None:
            before = self.numbers_after().tobytes()
        if before != after:
            yield "the file is another"


@pytest.fixture(scope="module", params=POOLS)
def pool(request):
    return request.param


@pytest.fixture(scope="module", params=BATCH_SIZES)
def batch_size(request):
    return request.param


def read(path):
    return path.read_bytes() if path.exists() else None


@pytest.fixture(scope="module")
def cases(pool, batch_size, tmp_path_factory):
    """Run all cases; return them by kind."""
    folder = tmp_path_factory.mktemp("contract")
    cases = []
    with ExitStack() as stack:
        for kind in (name for name, kind in KINDS.items() if not kind.missing()):
            for size, count in SIZES.items():
                for giving in GIVINGS:
                    path = folder / str(len(cases))
                    array = KINDS[kind].make(path, count, stack)
                    cases.append(Case(kind, size, giving, array, path))
        tasks = []
        for case in cases:
            case.file = read(case.path)
            source = arrange(case.giving, case.array)
            for number in range(TASKS):
                given, start = case.giving(source, number)
                tasks.append(delayed(write)(given, start, number, case.shared))
        tasks += [delayed(int)()] * (-len(tasks) % 20)
        told = run_in_batches(pool, batch_size, tasks, max_nbytes=MAX_NBYTES)
        del tasks, source, given, array
        for number, case in enumerate(cases):
            case.found = told[number * TASKS : (number + 1) * TASKS]
            case.caller = np.array(plain(case.array))
            case.file = case.file, read(case.path)
            del case.array
    return cases


def skip_if_missing(kind):
    if reason := KINDS[kind].missing():
        pytest.skip(reason)


# Without a map table these are not told from ordinary memory or, the last, from a map
# of a file; a temporary file has no name by which an np.memmap could tell of it.
UNTOLD = [
    "memmap of a TemporaryFile",
    "Arrow, r+, by address",
    "RawArray",
    "anonymous mmap",
]
# Of these nobody but pagemap tells that they are as their file; else a copy goes, which
# is ordinary memory to the tasks of a task.
PRIVATE = ["memmap c, modified", "FITS image"]
# And this has no name, but by a descriptor: else a copy goes, which is read-only.
NAMELESS = ["memmap of a TemporaryFile"]


def marked(kinds, untold):
    def marks(kind):
        if kind in PRIVATE and untold is not UNTOLD:
            return pytest.mark.needs_pagemap
        if kind in NAMELESS:
            return pytest.mark.needs_descriptors
        return pytest.mark.needs_maps if kind in untold else ()

    return [pytest.param(kind, marks=marks(kind)) for kind in kinds]


@pytest.mark.parametrize("kind", marked(KINDS, UNTOLD))
def test_writes(cases, kind):
    """What tasks write is seen by those who see it in the contract, by nobody else."""
    skip_if_missing(kind)
    mine = [case for case in cases if case.kind == kind]
    assert len(mine) == len(SIZES) * len(GIVINGS)
    faults = [
        f"{kind}, {case.size}, {case.giving.__name__}: {fault}"
        for case in mine
        for fault in case.faults()
    ]
    assert not faults, "\n".join(faults)


# Kinds that have something to lose; `make` of the first three needs a file only.
ENEMIES = ["memory", "memmap c, modified", "mmap", "FITS image", "SharedMemory"]


@pytest.fixture(params=ENEMIES)
def kind(request):
    skip_if_missing(request.param)
    return request.param


@pytest.fixture
def make(kind, tmp_path):
    """Return a function that makes an array of this kind; nobody may change it."""
    made = []
    with ExitStack() as stack:

        def make(size):
            path = tmp_path / str(len(made))
            made.append(KINDS[kind].make(path, SIZES[size], stack))
            return made[-1]

        yield make
        changed = [off(plain(array), 0) for array in made]
        made.clear()
    assert changed == [[0]] * len(changed)


def run(pool, batch_size, tasks):
    """Run all tasks of a dictionary of lists in one call; return their results so."""
    together = [task for some in tasks.values() for task in some]
    found = iter(run_in_batches(pool, batch_size, together, max_nbytes=MAX_NBYTES))
    return {name: [next(found) for _ in some] for name, some in tasks.items()}


def own(kind, size):
    dumped = kind == "memory" and size == "large" and not EXPORTS
    return REFUSED if dumped else THE_TASKS_OWN


class Holder:
    """An object that keeps an array, as estimators do."""

    def __init__(self, array):
        self.array = array

    def write(self):
        return write(self.array, 0, 0, False)


def write_of(holder):
    return holder.write()


def write_and_compare(array, holder, one, other, loop):
    """As a task: write, and tell which of the paths lead to one object."""
    told = write(array, 0, 0, False)
    same = [
        holder.array is array,
        one is other,
        one[0] is array,
        other["y"][0] is array,
        loop[0] is loop,
        loop[1] is array,
        off(plain(holder.array), 0) == off(plain(array), 0),
    ]
    return told, same


def test_paths_to_one_object(pool, batch_size, kind, make):
    """Within a task all paths to an object lead to one, though it is given to many."""
    tasks = {}
    for size in SIZES:
        array = make(size)
        tasks[size] = []
        for _ in range(20):
            both = {"y": [array], 0: array}
            loop = [None, array]
            loop[0] = loop
            arguments = (array, Holder(array), both, both, loop)
            tasks[size].append(delayed(write_and_compare)(*arguments))
    assert run(pool, batch_size, tasks) == {
        size: [(own(kind, size), [True] * 7)] * 20 for size in SIZES
    }


def is_same(array, holder):
    return array is holder.array and off(plain(array), 0)


def test_path_by_a_shared_object(pool, batch_size, kind, make):
    """So they do when the object that has it as well is given to many tasks."""
    tasks = {}
    for size in SIZES:
        array = make(size)
        tasks[size] = [delayed(is_same)(array, Holder(array))] * 20
    assert run(pool, batch_size, tasks) == {size: [[0]] * 20 for size in SIZES}


def deep(array, pool):
    """Tasks whose array is neither an argument nor in a container of arguments."""
    holder = Holder(array)
    tasks = {
        "attribute": delayed(write_of)(holder),
        "bound method": delayed(holder.write)(),
        "partial": delayed(functools.partial(write, array))(0, 0, False),
    }
    if pool == "loky":  # which pickles functions that have no name
        tasks["closure"] = delayed(lambda: write(array, 0, 0, False))()
    return {way: [task] * 20 for way, task in tasks.items()}


def test_deep_and_large(pool, batch_size, kind, make):
    """What is shared deep within tasks is read-only, whatever the batch size."""
    if kind.startswith("memmap"):
        pytest.skip("joblib sends this one writeable")
    tasks = deep(make("large"), pool)
    found = run(pool, batch_size, tasks)
    assert found == {way: [REFUSED] * 20 for way in tasks}


@pytest.mark.parametrize("kind", ["mmap"], indirect=True)
def test_deep_and_copied(pool, batch_size, kind, make):
    """Nor is it writeable where it arrives as a copy that tasks may share."""
    tasks = deep(make("large"), pool)
    _core.set_map_table("none")
    try:
        found = run(pool, batch_size, tasks)
    finally:
        _core.set_map_table("auto")
    assert found == {way: [REFUSED] * 20 for way in tasks}


@pytest.mark.parametrize("fixed", [1, 10])
def test_deep_and_small(pool, fixed, kind, make):
    """Up to `max_nbytes` it arrives as joblib sends it."""
    if kind.startswith("memmap"):
        pytest.skip("joblib loses the pages that were modified")
    tasks = deep(make("small"), pool)
    with samemap.disabled():
        stock = run(pool, fixed, tasks)
    if fixed == 1:
        assert stock == {way: [THE_TASKS_OWN] * 20 for way in tasks}
    assert run(pool, fixed, tasks) == stock


def test_deep_windows(pool, batch_size, kind, make):
    """Windows of one map, each in an object of its own: right, or refused if large."""
    tasks = {}
    for size, count in SIZES.items():
        array = make(size)
        tasks[size] = [
            delayed(functools.partial(write, array[i : count - 20 + i]))(i, 0, False)
            for i in range(20)
        ]
    found = run(pool, batch_size, tasks)
    assert found["small"] == [THE_TASKS_OWN] * 20
    assert found["large"] in ([THE_TASKS_OWN] * 20, [REFUSED] * 20)


def write_in_nested_tasks(array):
    """As a task: give what came to tasks of one's own, in a pool of one's own."""
    tasks = [delayed(write)(array, 0, i, False) for i in range(8)]
    return run("loky", 4, {"nested": tasks})["nested"], off(plain(array), 0)


# What arrives as a copy is ordinary memory to the tasks of that task.
@pytest.mark.parametrize("kind", marked(ENEMIES, ENEMIES[1:]), indirect=True)
@pytest.mark.parametrize("fixed", [1, 2])
def test_nested_pools(fixed, kind, make):
    """What an argument is to a task, it is to the tasks of that task."""
    tasks = {size: [delayed(write_in_nested_tasks)(make(size))] * 2 for size in SIZES}
    assert run("loky", fixed, tasks) == {
        size: [([own(kind, size)] * 8, [0])] * 2 for size in SIZES
    }


def write_in_a_fork(array):
    """As a task: a child process writes; tell what this one sees."""
    child = os.fork()
    if child == 0:
        write(array, 0, 0, False)
        os._exit(0)
    os.waitpid(child, 0)
    return off(plain(array), 0)


def test_fork_in_a_task(pool, kind, make):
    """A copy is written by a child without its parent, and so is what replaces it."""
    tasks = {size: [delayed(write_in_a_fork)(make(size))] * 4 for size in SIZES}
    assert run(pool, 1, tasks) == {size: [[0]] * 4 for size in SIZES}


KEPT = defaultdict(list)


def write_and_keep(array, call):
    """As a task: write, keep the argument, and tell of all that was kept."""
    array += 1
    KEPT[call].append(array)
    return [off(kept, 0) for kept in KEPT[call]]


def give_back_kept(call):
    """As a task: what earlier tasks of this worker have kept, given up."""
    return KEPT.pop(call, [])


def test_argument_in_a_global(pool, batch_size, kind, make):
    """An argument that a task keeps stays as it was; a later task can return it."""
    call = str(uuid.uuid4())
    keep = [delayed(write_and_keep)(make("small"), call)] * 20
    if kind != "memory" or EXPORTS:
        keep += [delayed(write_and_keep)(make("large"), call)] * 20
    # In turn, so that no worker gets tasks of one sort alone.
    give_back = delayed(give_back_kept)(call)
    tasks = {"both": [task for kept in keep for task in (kept, give_back)]}
    found = run(pool, batch_size, tasks)["both"]
    assert found[::2] == [[[1]] * len(told) for told in found[::2]]
    results = [result for results in found[1::2] for result in results]
    assert results
    assert [off(result, 0) for result in results] == [[1]] * len(results)
    for result in results:
        result += 1
    assert [off(result, 0) for result in results] == [[2]] * len(results)
