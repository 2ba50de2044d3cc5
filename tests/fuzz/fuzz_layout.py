"""Random chains of views over random files, there and back; run as a program.

``python tests/fuzz/fuzz_layout.py --cases N [--seed S]``: each case opens a file (any
dtype, order, offset and mode, private ones with random writes), takes a random chain
of views of it, and sends the result through `samemap.dumps`, joblib's own pickler, or
as a batch of tasks: as an argument, in lists, tuples and dicts, in objects. What
arrives must be equal to what was sent in everything that
`support.equality.fingerprint` sees, and its bytes to a copy taken before; also after
another task has written into it.
"""

import io
import math
import mmap
import pickle
import random
import sys
import warnings
from pathlib import Path

import joblib.pool
import numpy as np
import samemap
from fuzz_message import array_backing, main
from joblib.pool import CustomizablePickler
from numpy.lib.stride_tricks import as_strided, sliding_window_view
from samemap._batches import loky_pickler, pool_pickler
from samemap._envelope import Writer, read_tasks
from samemap._tables import Options, make_table

sys.path.append(str(Path(__file__).parents[1]))
from support.equality import differences, exact_bytes, fingerprint

PLAIN = ["?", "i1", "<u2", ">i4", "<f8", ">f8", "e", "g", "c8", ">c16", "S3", "<U2"]
PLAIN += ["V5", "M8[us]", ">m8[D]", "G", "u8"]


def random_dtype(rng):
    kind = rng.random()
    if kind < 0.6:
        return np.dtype(rng.choice(PLAIN))
    if kind < 0.7:
        return np.dtype(rng.choice(PLAIN), metadata={"n": rng.randrange(9)})
    fields = [
        (f"f{i}", rng.choice(PLAIN), rng.choice([(), (), (2,), (2, 3)]))
        for i in range(rng.randrange(1, 5))
    ]
    return np.dtype(fields, align=rng.random() < 0.5)


def random_file(rng, path):
    """Open a memmap of random layout on random bytes."""
    dtype = random_dtype(rng)
    offset = rng.choice((0, 0, 1, 128, 4096, rng.randrange(9000)))
    ndim = rng.randrange(1, 5)
    shape = tuple(rng.randrange(1, 7) for _ in range(ndim))
    mode = rng.choice(("r", "r+", "c", "w+"))
    order = rng.choice("CF")
    if mode == "w+":
        path.unlink(missing_ok=True)
    else:
        needed = offset + dtype.itemsize * math.prod(shape)
        path.write_bytes(rng.randbytes(needed + rng.choice((0, 1, 5000))))
    array = np.memmap(path, dtype, mode, offset, shape, order)
    if mode == "w+" or (mode == "c" and rng.random() < 0.7):
        raw = np.ndarray((array.nbytes,), np.uint8, array.base, offset % mmap.PAGESIZE)
        low = rng.randrange(array.nbytes)
        high = rng.randrange(low, array.nbytes) + 1
        raw[low:high] = np.frombuffer(rng.randbytes(high - low), np.uint8)
    return array


def random_slice(rng, n):
    bounds = [rng.choice((None, rng.randrange(-n - 2, n + 3))) for _ in range(2)]
    return slice(*bounds, rng.choice((None, 1, 2, 3, -1, -2, -5)))


def basic_index(rng, a):
    index = [
        random_slice(rng, n) if rng.random() < 0.8 or n == 0 else rng.randrange(-n, n)
        for n in a.shape
    ]
    if rng.random() < 0.3:
        index.insert(rng.randrange(len(index) + 1), None)
    if rng.random() < 0.2:
        return a[(*index[: rng.randrange(len(index) + 1)], ...)]
    return a[(*index, ...)]


def transposed(rng, a):
    axes = list(range(a.ndim))
    rng.shuffle(axes)
    return a.transpose(axes)


def reshaped(rng, a):
    sizes = [n for n in range(1, a.size + 1) if a.size % n == 0] or [0]
    n = rng.choice(sizes)
    shape = (n, a.size // n) if n else (0, 3)
    view = a.reshape(shape, order=rng.choice("CFA"))
    return view if np.may_share_memory(view, a) else a


def field(rng, a):
    return a[rng.choice(a.dtype.names)] if a.dtype.names else a


def retyped(rng, a):
    return a.view(random_dtype(rng))


def part(rng, a):
    if a.dtype.kind != "c":
        return a
    return a.real if rng.random() < 0.5 else a.imag


def broadcast(rng, a):
    return np.broadcast_to(a, (rng.randrange(4), *a.shape))


def windows(rng, a):
    if a.ndim == 0 or 0 in a.shape:
        return a
    axis = rng.randrange(a.ndim)
    size = rng.randrange(1, a.shape[axis] + 1)
    return sliding_window_view(a, size, axis, subok=rng.random() < 0.5)


def diagonal(rng, a):
    return a.diagonal(rng.randrange(-3, 4)) if a.ndim >= 2 else a


def strided(rng, a):
    """Anything that stays within the first axis, and any stride for length 1."""
    if a.ndim == 0 or 0 in a.shape:
        return a
    n = rng.randrange(1, a.shape[0] + 1)
    shape, strides = (n, 1, 2), (a.strides[0], rng.choice((10**15, -3, 0)), 0)
    return as_strided(a[(slice(None), *(0,) * (a.ndim - 1))], shape, strides)


def frozen(rng, a):
    a = a[...]
    a.flags.writeable = False
    return a


def plain(rng, a):
    return np.asarray(a)


def as_memmap(rng, a):
    return np.asarray(a).view(np.memmap)


STEPS = [basic_index] * 4 + [transposed, reshaped, field, retyped, part, broadcast]
STEPS += [windows, diagonal, strided, frozen, plain, as_memmap]


def random_view(rng, array):
    for _ in range(rng.randrange(6)):
        try:
            view = rng.choice(STEPS)(rng, array)
        except (TypeError, ValueError):
            continue  # NumPy has no such view of this array
        if view.ndim > 8 or view.size > 100_000 or view.dtype.itemsize == 0:
            continue
        array = view
    return array


def joblib_dumps(obj, reducers):
    file = io.BytesIO()
    CustomizablePickler(file, reducers).dump(obj)
    return file.getvalue()


class Fuzzer:
    """Makes and runs cases in one folder."""

    def __init__(self, folder, seed):
        self.random = random.Random(seed)
        Path(folder).mkdir(exist_ok=True)
        self.path = Path(folder, "file")
        make = joblib.pool.get_memmapping_reducers
        self.reducers, _ = make(temp_folder_resolver=lambda: folder)
        self.array = None
        table = make_table(Options(), max_nbytes=1000)
        self.writers = [Writer(cls, table) for cls in (loky_pickler, pool_pickler)]

    def open_file(self):
        self.array = None
        self.array = random_file(self.random, self.path)
        _, (_, token, *_) = array_backing(self.array)
        self.prefix = token[:8]

    def views(self, n):
        """Return `n` views of one file."""
        self.open_file()
        return [random_view(self.random, self.array) for _ in range(n)]

    def case(self):
        """Run one case; an AssertionError tells how the arrays differ."""
        # Several views of one file, as a program would have them.
        if self.array is None or self.random.random() < 0.2:
            self.open_file()
        if self.random.random() < 0.7:
            self.check(random_view(self.random, self.array))
        else:
            self.check_tasks([random_view(self.random, self.array) for _ in range(4)])

    def check(self, view):
        before = exact_bytes(view)
        expected = fingerprint(view)
        if self.random.random() < 0.5:
            data = samemap.dumps(view)
        else:
            data = joblib_dumps(view, self.reducers)
        if self.random.random() < 0.7:
            # As in another process, which doesn't know the sender's mapping.
            data = data.replace(self.prefix, b"elsewher")
        found = pickle.loads(data)
        wrong = differences(fingerprint(found), expected)
        assert not wrong, (wrong, expected)
        assert exact_bytes(found) == before

    def check_tasks(self, views):
        """Send views as tasks hold them, and run the tasks one after the other."""
        rng = self.random
        shared = rng.choice(views)
        objects = [Holder(view) for view in rng.sample(views, rng.randrange(3))]
        tasks = []
        for _ in range(rng.randrange(1, 5)):
            held = [rng.choice(views), {"x": rng.choice(views)}, (shared,)]
            if objects and rng.random() < 0.5:
                held.append(rng.choice(objects))
            if rng.random() < 0.3:
                held.append(held)
            # What several tasks get to through an object is one array for all.
            function = describe if objects else describe_and_write
            tasks.append((function, (shared, held), {"x": rng.choice(views)}))
        expected = [describe_all(task) for task in tasks]
        writer = self.writers[rng.randrange(len(self.writers))]
        kept = []
        count, pending, data, parts = writer.write_tasks(tasks, kept)
        if rng.random() < 0.7:
            data = data.replace(self.prefix, b"elsewher")
            parts = parts and [
                (part.replace(self.prefix, b"elsewher"), used) for part, used in parts
            ]
        loaded = read_tasks((count, pending, data, parts))
        for (function, args, kwargs), (sent, same) in zip(
            loaded, expected, strict=True
        ):
            found, found_same = function(*args, **kwargs)
            assert found_same == same
            for one, other in zip(found, sent, strict=True):
                wrong = differences(one, other)
                # What is in an object, or an object holds too, may be read-only.
                assert wrong.keys() <= ({"writeable"} if objects else set()), wrong


class Holder:
    """An object that leads to an array."""

    def __init__(self, array):
        self.array = array


def arrays_of(*things):
    """List all arrays that things lead to, in order, as often as they do."""
    arrays, seen, todo = [], {}, [things]
    while todo:
        thing = todo.pop(0)
        if isinstance(thing, np.ndarray):
            arrays.append(thing)
        elif id(thing) not in seen:
            seen[id(thing)] = thing
            if isinstance(thing, Holder):
                todo.append(thing.array)
            elif isinstance(thing, dict):
                todo += thing.values()
            else:
                todo += thing
    return arrays


def describe_all(task):
    """Return what the task returns, without its writes."""
    _, args, kwargs = task
    return describe(*args, **kwargs)


def fingerprints(arrays):
    """Describe arrays, and which of them are the same object."""
    numbers = {}
    same = [numbers.setdefault(id(array), len(numbers)) for array in arrays]
    return [fingerprint(array) for array in arrays], same


def describe(*args, **kwargs):
    """As a task: describe the arguments."""
    return fingerprints(arrays_of(args, kwargs))


def describe_and_write(*args, **kwargs):
    """As a task: describe the arguments, then write into what isn't shared."""
    arrays = arrays_of(args, kwargs)
    found = fingerprints(arrays)
    for array in arrays:
        if array.flags.writeable and array.size and not is_shared(array):
            array.view(f"V{array.dtype.itemsize}")[...] = b"\x5a"
    return found


def is_shared(array):
    """Tell whether writes reach the file: by the mode of the memmap below."""
    while array is not None:
        if isinstance(array, np.memmap) and array.mode is not None:
            return array.mode == "r+"
        array = getattr(array, "base", None)
    return False


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main(__doc__, Fuzzer)
    print("all equal")
