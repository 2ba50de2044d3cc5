"""Damaged messages as an unpickler meets them; run as a program.

``python tests/fuzz/fuzz_pickle.py --cases N [--seed S]``: each case is the pickle of a
few views, of a batch of tasks or of results, with opcodes left out, doubled, exchanged
or brought in from another pickle, their arguments damaged as in fuzz_message.py, and
the end cut off: so the functions that messages name meet each other's results in places
where they don't belong. The unpickler finds no other functions. Loading must raise an
Exception, or return something whose arrays all lie in their memory.
"""

import io
import pickle
import pickletools
from pathlib import Path

import fuzz_message
import numpy as np
import samemap
from joblib.parallel import BatchedCalls
from samemap import _batches, _core, _errors, _subclasses

FUNCTIONS = {
    "samemap._core": (_core, ["attach", "rebuild", "refused", "incoming"]),
    "samemap._batches": (_batches, ["rebuild_batch", "rebuild_results"]),
    "samemap._subclasses": (_subclasses, ["rebuild_subclass", "rebuild_masked"]),
    "samemap._errors": (_errors, ["BackingTruncatedError"]),
}
# In pickles by their index: what NumPy and joblib make of damage is theirs.
RECORDS = np.dtype((np.record, fuzz_message.DTYPES[11]))
OTHERS = [*fuzz_message.DTYPES, RECORDS, np.dtype("i2")]
OTHERS += [np.matrix, np.recarray, BatchedCalls]
NUMBERS = {"BININT", "BININT1", "BININT2", "LONG1", "NONE", "NEWTRUE", "NEWFALSE"}
ARGUMENTS = NUMBERS | {"SHORT_BINBYTES", "BINBYTES"}


class Pickler(samemap.Pickler):
    """Writes dtypes and classes of others as numbers."""

    def persistent_id(self, obj):
        dtype = isinstance(obj, np.dtype)
        for number, other in enumerate(OTHERS):
            if other is obj or (dtype and type(other) is type(obj) and other == obj):
                return number
        return None


class Unpickler(pickle.Unpickler):
    """Finds what messages name, and nothing else."""

    def find_class(self, module, name):
        owner, names = FUNCTIONS.get(module, (None, ()))
        if name not in names:
            raise pickle.UnpicklingError(f"{module}.{name} is not for this test")
        return getattr(owner, name)

    def persistent_load(self, number):
        return OTHERS[number]


def dumps(obj):
    """Pickle as for a worker: arrays, batches and results."""
    file = io.BytesIO()
    pickler = Pickler(file)
    pickler.dispatch_table[BatchedCalls] = _batches.BatchReducer(None)
    pickler.dump(obj)
    return file.getvalue()


def opcodes(message):
    """Cut a pickle into its opcodes, without the frames around them."""
    parsed = [(code.name, at) for code, _, at in pickletools.genops(message)]
    ends = [at for _, at in parsed[1:]] + [len(message)]
    return [
        (name, message[at:end])
        for (name, at), end in zip(parsed, ends, strict=True)
        if name != "FRAME"
    ]


def one(value):
    """Return the single opcode that makes a number, None or bytes."""
    (pair,) = opcodes(pickle.dumps(value, 4))[1:-1][:1]
    return pair


class Refusal:
    """Pickled as an array whose sender could not have it."""

    def __init__(self, error):
        layout = fuzz_message.layout_bytes(0, 255, 0, [3, 4], [0, 0])
        self.arguments = error, fuzz_message.DTYPES[0], layout

    def __reduce__(self):
        return _core.refused, self.arguments


class Fuzzer(fuzz_message.Fuzzer):
    """Makes and runs cases; `found` counts what came of them."""

    def __init__(self, folder, seed):
        super().__init__(folder, seed)
        path = str(Path(folder, "more"))
        Path(path).write_bytes(self.random.randbytes(fuzz_message.NBYTES))
        plain = np.memmap(path, np.int16, "r+")
        private = np.memmap(path, np.float64, "c")
        private[3:900] = 1
        records = np.asarray(plain)[:90].view(fuzz_message.DTYPES[11])
        batch = BatchedCalls([(None, (plain, plain[::3]), {})], (None, None))
        error = samemap.BackingTruncatedError("message", "path", "1", "2")
        self.keep = plain, private
        self.pickles = [
            opcodes(dumps(each))
            for each in (
                [plain[::-1], plain[3:40:2], plain.reshape(2, -1).T],
                [private, private[::2], np.asarray(private)[:0]],
                (records[::2], records.view(np.recarray), plain[:9].view(np.matrix)),
                np.ma.MaskedArray(plain, plain.view(np.int8)[::2].view(np.bool_)),
                [batch, _batches.Results([plain[5:]], (1, 1))],
                [_core.Outgoing(), Refusal(error)],
            )
        ]
        for codes in self.pickles:
            self.load(b"".join(data for _, data in codes))

    def damage(self, code):
        """Return another argument in the place of one."""
        name, data = code
        rng = self.random
        if rng.random() < 0.1:
            return one(rng.choice((None, (), 1.5, "text", b"", True, [])))
        if name in NUMBERS:
            return one(self.number())
        (value,) = (arg for _, arg, _ in pickletools.genops(data + b".") if arg)
        return one(self.damaged_bytes(value))

    def message(self):
        """Return a damaged pickle."""
        rng = self.random
        codes = list(rng.choice(self.pickles))
        for _ in range(rng.choice((1, 1, 1, 2, 3))):
            at = rng.randrange(1, len(codes))
            kind = rng.random()
            if kind < 0.7:
                where = [i for i, (name, _) in enumerate(codes) if name in ARGUMENTS]
                at = rng.choice(where) if where else 1
                codes[at] = self.damage(codes[at]) if where else codes[at]
            elif kind < 0.8:
                codes[at] = rng.choice(rng.choice(self.pickles))
            elif kind < 0.85:
                del codes[at]
            elif kind < 0.9:
                codes.insert(at, rng.choice(codes[1:]))
            elif kind < 0.95:
                other = rng.randrange(1, len(codes))
                codes[at], codes[other] = codes[other], codes[at]
            else:
                other = rng.choice(self.pickles)
                start = rng.randrange(1, len(other))
                codes[at:at] = other[start : start + rng.randrange(1, 12)]
        data = b"".join(data for _, data in codes)
        return data[: rng.randrange(len(data))] if rng.random() < 0.05 else data

    def load(self, data):
        return Unpickler(io.BytesIO(data)).load()

    def case(self):
        """Load one damaged pickle; read all arrays of what comes back."""
        try:
            result = self.load(self.message())
        except Exception as error:
            self.found[type(error).__name__] += 1
            return
        self.found[type(result).__name__] += 1
        self.look(result, depth=6)

    def look(self, thing, depth):
        if isinstance(thing, np.ndarray):
            self.found["array"] += 1
            self.check(np.asarray(thing))
        elif isinstance(thing, list | tuple) and depth > 0:
            for part in thing:
                self.look(part, depth - 1)


if __name__ == "__main__":
    found = fuzz_message.main(__doc__, Fuzzer).found
    print(dict(found.most_common()))
