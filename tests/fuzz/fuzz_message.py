"""Damaged messages for the functions that messages name; run as a program.

``python tests/fuzz/fuzz_message.py --cases N [--seed S]``: each case is a valid call of
`attach`, `rebuild` or `pending` with some of its arguments damaged: of another type, of
another sign or size, at the edges of what 64 bits hold, cut off, with bits turned over.
It must raise an Exception, or return an array that lies in its memory: then every
element is read. What is pending is given to tasks, in lists, tuples and dicts that may
hold themselves: of two tasks neither may see what the other writes.
"""

import argparse
import collections
import math
import random
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from samemap import _core

sys.path.append(str(Path(__file__).parents[1]))
from support.encoding import ALONE, BARE, HAS_MMAP, MAPPED, MEMMAP, OWN, PRIVATE
from support.equality import exact_bytes

NBYTES = 20_000

EXPORTED = 11  # src/mapping.h: writable, private, made for one message

EDGES = [0, 1, 2, 7, 8, 31, 64, 127, 128, 255, 4095, 4096, NBYTES - 1, NBYTES]
EDGES += [NBYTES + 1, 2**31, 2**32, 2**53, 2**62, 2**63 - 1, 2**63, 2**64 - 1, 2**64]
NUMBERS = EDGES + [-n for n in EDGES]

DTYPES = [
    np.dtype(d)
    for d in ("f8", ">i2", "?", "V5", "S3", "U2", "M8[ns]", "O", "S0", "c16", "(2,3)i4")
]
DTYPES += [
    np.dtype([("a", "i1"), ("b", "f8")]),
    np.dtype([("a", "O")]),
    np.dtype({"names": ["x"], "formats": ["i4"], "offsets": [50], "itemsize": 90}),
    np.dtype([("s", "i2", (4,))], metadata={"k": 1}),
    np.dtype([]),
]

FLAGS = [PRIVATE, PRIVATE | 1, PRIVATE | ALONE | 1, PRIVATE | MEMMAP | 3, OWN | 1]

OTHERS = [None, True, 1.5, "text", b"", b"\0" * 16, (), [], {}, object, NotImplemented]
OTHERS += [bytearray(64), memoryview(b"abc"), np.zeros(3), DTYPES[0], ValueError("x")]
OTHER_ARRAY = -3


def varint(n):
    n &= 2**64 - 1
    out = bytearray()
    while n >= 0x80:
        out.append(n & 0x7F | 0x80)
        n >>= 7
    out.append(n)
    return bytes(out)


def zigzag(n):
    return n << 1 if n >= 0 else (-n << 1) - 1


def layout_bytes(flags, typenum, offset, shape, strides):
    """Encode a layout as src/wire/layout.h says, its numbers cut to their bits."""
    header = bytes([typenum & 255, len(shape) & 255])
    lengths = b"".join(varint(n) for n in shape)
    steps = b"".join(varint(zigzag(n)) for n in strides)
    return header + varint(flags) + varint(offset) + lengths + steps


class Fuzzer:
    """Makes and runs cases; `found` counts what came of them."""

    def __init__(self, folder, seed):
        self.random = random.Random(seed)
        self.found = collections.Counter()
        self.maps = []
        for mode in ("r", "r+", "c"):
            path = Path(folder, f"file{mode}")
            path.write_bytes(self.random.randbytes(NBYTES))
            array = np.memmap(path, np.uint8, mode)
            _, args = array_backing(array)
            # As in another process, which doesn't know the sender's mapping.
            args = (args[0], f"fuzz{mode:>4}".encode().ljust(16), *args[2:])
            self.maps.append((array, args))
        # A memory file of results: its access is the last but one.
        args = (args[0], b"fuzz export".ljust(16), *args[2:6], EXPORTED, args[7])
        self.maps.append((array, args))
        self.sources = []

    def number(self):
        kind = self.random.random()
        if kind < 0.5:
            return self.random.choice(NUMBERS) + self.random.choice((0, 0, 1, -1))
        if kind < 0.8:
            return self.random.randrange(-40, 200)
        return self.random.randrange(-(2 ** self.random.randrange(1, 66)), 2**65)

    def damaged_bytes(self, data):
        data = bytearray(data)
        for _ in range(self.random.randrange(3)):
            kind = self.random.random()
            at = self.random.randrange(len(data) + 1)
            if kind < 0.4 and at < len(data):
                data[at] ^= 1 << self.random.randrange(8)
            elif kind < 0.6:
                del data[at:]
            elif kind < 0.8:
                data[at:at] = self.random.randbytes(self.random.randrange(1, 12))
            elif at < len(data):
                data[at] = self.random.choice((0, 127, 128, 255))
        return bytes(data)

    def layout(self):
        """Make one that is often right, and mostly nearly so."""
        rng = self.random
        ndim = rng.choice((0, 1, 1, 2, 2, 3, 5, 32, 33, 64, 65, 200))
        small = rng.random() < 0.7
        pick = (lambda: rng.randrange(0, 9)) if small and ndim < 6 else self.number
        shape = [max(0, pick()) for _ in range(ndim)]
        strides = [rng.choice((1, 8, -8, 16, 100, -100)) for _ in range(ndim)]
        for values in (shape, strides):
            if values and rng.random() < 0.2:
                values[rng.randrange(len(values))] = self.number()
        offset = rng.randrange(NBYTES) if small else self.number()
        typenum = rng.choice((0, 1, 7, 12, 15, 23, 255, 255, 255, rng.randrange(256)))
        flags = rng.choice((0, 1, 3, 5, 9, 15, *FLAGS, rng.randrange(512)))
        if rng.random() < 0.02:
            flags = self.number()
        data = layout_bytes(flags, typenum, offset, shape, strides)
        return self.damaged_bytes(data) if rng.random() < 0.5 else data

    def source(self):
        """Return one that is new, or one that others have used: a message has few."""
        rng = self.random
        if len(self.sources) < 2 or rng.random() < 0.3:
            source = _core.attach(*rng.choice(self.maps)[1])
            self.sources = [*self.sources[-3:], source]
        return rng.choice(self.sources)

    def memory(self):
        rng = self.random
        kind = rng.random()
        if kind < 0.7:
            return self.source()
        if kind < 0.8:
            return rng.randbytes(rng.randrange(300))
        if kind < 0.9:
            return bytearray(rng.randbytes(rng.randrange(300)))
        return rng.choice(OTHERS) if kind < 0.97 else rng.choice(self.maps)[0].base

    def face(self):
        rng = self.random
        if rng.random() < 0.5:
            return self.memory()
        attributes = [rng.choice(["name", None, 0, "r+", *OTHERS]) for _ in range(3)]
        face = (self.memory(), *attributes)
        return face[: rng.randrange(5)] if rng.random() < 0.05 else face

    def patches(self):
        rng = self.random
        if rng.random() < 0.7:
            return None
        parts = []
        for _ in range(rng.randrange(4)):
            offset = self.number() if rng.random() < 0.7 else None
            parts += [offset, rng.randbytes(rng.choice((0, 1, 8, 100, NBYTES + 1)))]
        if rng.random() < 0.3:
            parts.insert(rng.randrange(len(parts) + 1), rng.choice(OTHERS))
        return tuple(parts) if rng.random() < 0.9 else parts

    def good(self, private):
        """Make arguments with nothing wrong in them, patches that overlap apart."""
        rng = self.random
        dtype = rng.choice((None, *DTYPES[:7], *DTYPES[11:13]))
        itemsize = dtype.itemsize if dtype is not None else 8
        shape = [rng.randrange(1, 6) for _ in range(rng.randrange(4))]
        strides = [rng.choice((itemsize, -itemsize, 0, 24, 100, -7)) for _ in shape]
        steps = [(n - 1) * step for n, step in zip(shape, strides, strict=True)]
        low = -sum(step for step in steps if step < 0)
        high = sum(step for step in steps if step > 0) + itemsize
        offset = rng.choice((low, NBYTES - high, rng.randrange(low, NBYTES - high)))
        flags = rng.choice((0, 1, 1, 4, 9))
        face = self.source()
        if rng.random() < 0.5:
            face = face, rng.choice(("name", None)), rng.choice((0, 8)), "r+"
            flags |= rng.choice((0, MEMMAP, MEMMAP | HAS_MMAP, MEMMAP | BARE))
        patches = None
        if private or rng.random() < 0.5:
            flags |= rng.choice((PRIVATE, PRIVATE | ALONE, PRIVATE | MAPPED))
            if rng.random() < 0.3:
                at = rng.randrange(0, NBYTES - 16, 16)
                patches = (at, rng.randbytes(16))
            elif rng.random() < 0.2:
                patches = (None, rng.randbytes(itemsize * math.prod(shape)))
        else:
            flags |= rng.choice((0, OWN))
        typenum = 255 if dtype is not None else 12
        layout = layout_bytes(flags, typenum, offset, shape, strides)
        return [face, layout, dtype, patches]

    def rebuild(self, private=False):
        if self.random.random() < 0.6:
            args = self.good(private)
            if self.random.random() < 0.4:
                args[1] = self.damaged_bytes(args[1])
            return _core.rebuild, args
        args = [self.face(), self.layout(), self.random.choice([*DTYPES, None])]
        args.append(self.patches())
        return _core.rebuild, args[: self.random.choice((2, 3, 3, 4, 4, 4))]

    def pending(self):
        rng = self.random
        _, args = self.rebuild(private=True)
        if rng.random() < 0.3:
            args += [None] * (4 - len(args))
            last = (rng.choice((finish, len, *OTHERS)), rng.choice(OTHERS))
            args.append(last if rng.random() < 0.8 else rng.choice(OTHERS))
        return _core.pending, args

    def attach(self):
        rng = self.random
        args = list(rng.choice(self.maps)[1])
        for _ in range(rng.randrange(1, 3)):
            i = rng.randrange(len(args))
            if isinstance(args[i], bytes) and rng.random() < 0.7:
                args[i] = self.damaged_bytes(args[i])
            elif rng.random() < 0.8:
                args[i] = self.number()
            else:
                args[i] = rng.choice(OTHERS)
        return _core.attach, args

    def call(self, make):
        """Make one call and damage its arguments; None when it has raised."""
        rng = self.random
        function, args = make()
        if rng.random() < 0.1:
            args[rng.randrange(len(args))] = rng.choice(OTHERS)
        if rng.random() < 0.01:
            args = args[: rng.randrange(len(args))]
        try:
            return function(*args)
        except Exception as error:
            self.found[type(error).__name__] += 1
            return None

    def case(self):
        """Make and run one case; read what comes back."""
        kind = self.random.random()
        if kind < 0.6:
            result = self.call(self.rebuild)
        elif kind < 0.75:
            result = self.call(self.attach)
            if result is not None:
                # It opens nothing; a view does.
                self.sources.append(result)
                result = self.call(self.rebuild)
        else:
            self.tasks()
            return
        if isinstance(result, np.ndarray):
            self.found["array"] += 1
            self.check(result)
        elif result is not None:
            self.found[type(result).__name__] += 1

    def tasks(self):
        """Let two tasks have the same arguments: they must find the same."""
        rng = self.random
        pending = [self.call(self.pending) for _ in range(rng.randrange(1, 8))]
        pending = [each for each in pending if each is not None]
        for each in pending[:2]:
            if rng.random() < 0.2:
                function = rng.choice((pack, len, finish))
                pending.append(_core.pending_call(function, each, rng.choice(OTHERS)))
        args = tuple(self.nested([*pending, *pending, *OTHERS], 3) for _ in range(3))
        kwargs = {"x": self.nested(pending or OTHERS, 2)}
        try:
            before = _core.run(self.use, args, kwargs)
            after = _core.run(self.use, args, kwargs)
        except Exception as error:
            self.found[type(error).__name__] += 1
            return
        self.found["task"] += 1
        assert before == after, "a task has seen what another one has written"

    def nested(self, things, depth):
        """Put things into containers, some of which hold themselves."""
        rng = self.random
        if depth == 0 or rng.random() < 0.3:
            return rng.choice(things)
        parts = [self.nested(things, depth - 1) for _ in range(rng.randrange(4))]
        kind = rng.random()
        if kind < 0.4:
            if rng.random() < 0.1:
                parts.append(parts)
            return parts
        return tuple(parts) if kind < 0.7 else dict(enumerate(parts))

    def use(self, *args, **kwargs):
        """As a task: read all arrays; then write into those that are its own."""
        arrays = {}
        seen = {}
        todo = [args, kwargs]
        while todo:
            thing = todo.pop()
            if id(thing) in seen:
                continue
            seen[id(thing)] = thing
            assert not isinstance(thing, _core.Pending)
            if isinstance(thing, np.ndarray):
                arrays[id(thing)] = thing
            elif isinstance(thing, list | tuple):
                todo += thing
            elif isinstance(thing, dict):
                todo += thing.values()
        arrays = [a for a in arrays.values() if a is not OTHERS[OTHER_ARRAY]]
        self.found["own array"] += len(arrays)
        found = [self.check(array) for array in arrays]
        for array in arrays:
            if array.flags.writeable and array.size <= NBYTES:
                array.view(f"V{array.dtype.itemsize}")[...] = b"\x5a"
        return found

    def check(self, array):
        """Read all elements, and write them where that is allowed; return them."""
        if array.size > NBYTES:
            # Overlapping itself (strides of 0): its corners are enough.
            array = array[tuple(slice(None, None, max(1, n - 1)) for n in array.shape)]
        if array.size <= NBYTES:
            data = exact_bytes(array)
            if array.flags.writeable and array.size:
                array[...] = array.copy()
                assert exact_bytes(array) == data or array.dtype.kind in "?fcV"
            return data
        return None


def finish(array, other):
    """Give an array to a task with something beside it."""
    return [array, other]


def pack(*things):
    """Return what a task gets for a call."""
    return things


def reduced(array):
    """Return the backing in the reduction of an np.memmap."""
    return _core.Reducer().reduce(array)[1][0][0]


def array_backing(array):
    """Return the backing's own reduction, (attach, args)."""
    return reduced(array).__reduce__()


def main(description, fuzzer_class):
    """Run as many cases as the command line says; return the fuzzer."""
    parser = argparse.ArgumentParser(description=description.splitlines()[0])
    parser.add_argument("--cases", type=int, default=10**6)
    parser.add_argument(
        "--seed", type=int, default=random.SystemRandom().getrandbits(32)
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        fuzzer = fuzzer_class(folder, options.seed)
        start = time.perf_counter()
        for _ in range(options.cases):
            fuzzer.case()
        seconds = time.perf_counter() - start
    print(f"seed {options.seed}: {options.cases} cases in {seconds:.0f} s")
    return fuzzer


if __name__ == "__main__":
    print(dict(main(__doc__, Fuzzer).found.most_common()))
