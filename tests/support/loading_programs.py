"""Objects that look at their arrays while they are loaded, and may not like them.

Each program prints how a call of `Parallel` ended, and the result of the next call.
What it is about is the hang, so it is to be run in an interpreter of its own.
"""

import mmap
import os
from pathlib import Path

import numpy as np
import samemap  # noqa: F401  (the import installs)
from joblib import Parallel, delayed

from support.foreign import array_at, map_at

VALUES = np.arange(4096)


class Checked:
    """Compares the sum of its array with what it was, and raises."""

    def __init__(self, array):
        self.array, self.total = array, int(array.sum())

    def __setstate__(self, state):
        self.__dict__.update(state)
        if int(self.array.sum()) != self.total:
            raise RuntimeError("other data")


class Asserting(Checked):
    """Asserts what it knows of its array."""

    def __setstate__(self, state):
        self.__dict__.update(state)
        assert self.array[-1] == self.array[0] + len(self.array) - 1


class Inverting(Checked):
    """Computes something that no other array allows."""

    def __setstate__(self, state):
        self.__dict__.update(state)
        self.inverse = 1 // int(self.array[1])


class Keyed(dict):
    """A mapping by what is in its arrays: other data are a KeyError."""

    def __init__(self, array):
        self.array = array
        self[int(array[-1])] = "last"

    def __reduce__(self):
        return rebuild_keyed, (self.array, dict(self))


def rebuild_keyed(array, items):
    items[int(array[-1])]
    return Keyed(array)


class Refusing:
    """Raises an exception of its own, whatever its array is."""

    def __init__(self, array):
        self.array = array

    def __setstate__(self, state):
        raise ValueError("refused by the class itself")


def without_descriptor(path):
    """Map a file that nobody has open then, as a library in C does."""
    address = map_at(path, VALUES.nbytes, prot=mmap.PROT_READ | mmap.PROT_WRITE)
    return array_at(address, VALUES.nbytes)


def as_memmap(path):
    """The same as np.memmap, with a file that nobody has open."""
    array = without_descriptor(path).view(np.memmap)
    array.filename, array.offset, array.mode = str(path), 0, "r+"
    return array


def truncate(path):
    os.truncate(path, 8)


def remove(path):
    path.unlink()


def replace(path):
    other = path.with_name("other")
    (VALUES + 1).tofile(other)
    other.replace(path)


class Doom:
    """Pickled after an array, it does something to the file; it arrives as 0."""

    def __init__(self, fate, path):
        self.fate, self.path = fate, path

    def __reduce__(self):
        globals()[self.fate](self.path)
        return int, ()


def new_file(folder, name="numbers"):
    path = Path(folder, name)
    VALUES.tofile(path)
    return path


def last(holder, *_):
    return int(holder.array[-1])


def give(path, cls, fate, number):
    """As a task: a result whose file is doomed once it is pickled."""
    if number:
        return number
    return globals()[cls](as_memmap(path)), Doom(fate, path)


def refuse(cls):
    """As a task: a result that can't be loaded whatever it is."""
    return globals()[cls](np.arange(5))


def tell(backend, tasks, **options):
    """Print how a call ends, and what the next one gives."""
    try:
        Parallel(2, backend, **options)(tasks)
        print("no error")
    except BaseException as error:
        print(type(error).__name__)
    print(Parallel(2, backend)([delayed(last)(Checked(VALUES))] * 2))


def argument(backend, folder, cls, fate):
    path = new_file(folder)
    holder = globals()[cls](as_memmap(path))
    tasks = [delayed(last)(holder, Doom(fate, path)), *[delayed(int)(i) for i in "12"]]
    tell(backend, tasks)


def argument_within(backend, folder, cls, fate):
    """The holder is deep in containers, and the batch has other tasks."""
    path = new_file(folder)
    holder = {"x": [globals()[cls](as_memmap(path))]}
    tasks = [delayed(str)(holder), delayed(str)(Doom(fate, path))] * 2
    tell(backend, tasks, batch_size=2, pre_dispatch="all")


def result(backend, folder, cls, fate):
    path = new_file(folder)
    tell(backend, [delayed(give)(path, cls, fate, number) for number in range(4)])


def refused_argument(backend, folder, cls):
    tell(backend, [delayed(len)([globals()[cls](VALUES)])] * 2)


def refused_argument_with_map(backend, folder, cls):
    array = np.memmap(new_file(folder), int, "r+")
    tell(backend, [delayed(len)([array, globals()[cls](array)])] * 2)


def refused_result(backend, folder, cls):
    tell(backend, [delayed(refuse)(cls)] * 2)
