"""Damaged messages for the functions that messages name; run as a program.

``python tests/fuzz/fuzz_message.py --cases N [--seed S]``: each case is a valid call of
`rebuild`, `attach` or `refused` with some of its arguments damaged: of another type,
of another sign or size, at the edges of what 64 bits hold, cut off, with bits turned
over. It must raise an Exception, or return an array that lies in its memory: then
every element is read.
"""

import argparse
import collections
import random
import tempfile
import time
from pathlib import Path

import numpy as np
from samemap import _core

NBYTES = 20_000

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

OTHERS = [None, True, 1.5, "text", b"", b"\0" * 16, (), [], {}, object, NotImplemented]
OTHERS += [bytearray(64), memoryview(b"abc"), np.zeros(3), DTYPES[0], ValueError("x")]


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
    header = bytes([flags & 255, typenum & 255, len(shape) & 255])
    lengths = b"".join(varint(n) for n in shape)
    steps = b"".join(varint(zigzag(n)) for n in strides)
    return header + varint(offset) + lengths + steps


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
            attach, args = array_backing(array)
            self.maps.append((array, attach(*args), args))
        # As attach returns them for an owner of several maps: some belong together.
        self.pairs = [
            (owner, backing)
            for owner in (*(map_ for _, map_, _ in self.maps), b"bytes", self)
            for backing in (*(reduced(array) for array, _, _ in self.maps), None)
        ]

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
        flags = rng.choice((0, 1, 3, 5, 9, 15, rng.randrange(256)))
        data = layout_bytes(flags, typenum, offset, shape, strides)
        return self.damaged_bytes(data) if rng.random() < 0.5 else data

    def memory(self):
        rng = self.random
        kind = rng.random()
        if kind < 0.7:
            return rng.choice(self.maps)[1]
        if kind < 0.8:
            return rng.randbytes(rng.randrange(300))
        if kind < 0.9:
            return bytearray(rng.randbytes(rng.randrange(300)))
        return rng.choice(OTHERS if kind < 0.97 else self.pairs)

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

    def rebuild(self):
        args = [self.face(), self.layout(), self.random.choice([*DTYPES, None])]
        args.append(self.patches())
        return _core.rebuild, args[: self.random.choice((2, 3, 3, 4, 4, 4))]

    def attach(self):
        rng = self.random
        args = list(rng.choice(self.maps)[2])
        for _ in range(rng.randrange(1, 3)):
            i = rng.randrange(len(args))
            if isinstance(args[i], bytes) and rng.random() < 0.7:
                args[i] = self.damaged_bytes(args[i])
            elif rng.random() < 0.8:
                args[i] = self.number()
            else:
                args[i] = rng.choice(OTHERS)
        return _core.attach, args

    def refused(self):
        rng = self.random
        error = rng.choice([ValueError("sent"), KeyError(1), *OTHERS])
        return _core.refused, [error, rng.choice(DTYPES + OTHERS), self.layout()]

    def case(self):
        """Make and run one case; read what comes back."""
        rng = self.random
        kind = rng.random()
        make = (
            self.rebuild if kind < 0.8 else self.attach if kind < 0.95 else self.refused
        )
        function, args = make()
        if rng.random() < 0.1:
            args[rng.randrange(len(args))] = rng.choice(OTHERS)
        if rng.random() < 0.01:
            args = args[: rng.randrange(len(args))]
        message = _core.incoming() if rng.random() < 0.2 else None
        try:
            result = function(*args)
        except Exception as error:
            self.found[type(error).__name__] += 1
            return
        if message is not None and message.close() is not None:
            self.found["noted"] += 1
        elif isinstance(result, np.ndarray):
            self.found["array"] += 1
            self.check(result)
        else:
            self.found[type(result).__name__] += 1

    def check(self, array):
        """Read all elements, and write them where that is allowed."""
        if array.size > NBYTES:
            # Overlapping itself (strides of 0): its corners are enough.
            array = array[tuple(slice(None, None, max(1, n - 1)) for n in array.shape)]
        if array.size <= NBYTES:
            data = array.tobytes()
            if array.flags.writeable and array.size:
                array[...] = array.copy()
                assert array.tobytes() == data or array.dtype.kind in "fcV"


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
