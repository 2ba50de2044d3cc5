"""Damaged messages as an unpickler meets them; run as a program.

``python tests/fuzz/fuzz_pickle.py --cases N [--seed S]``: each case is the pickle of a
few views, of a batch of tasks or of results, with opcodes left
out, doubled, exchanged or brought in from another pickle, their arguments damaged as in
fuzz_message.py, and the end cut off: so the functions that messages name meet each
other's results in places where they don't belong. The unpickler finds no other
functions. Loading must raise an Exception, or return something whose arrays all lie in
their memory; the same for the tasks of a batch when they run.
"""

import io
import pickle
import pickletools
from pathlib import Path

import fuzz_message
import numpy as np
import samemap
from samemap import _batches, _core, _envelope, _errors, _subclasses
from samemap._tables import Options, make_table

FUNCTIONS = {
    "samemap._core": (_core, ["attach", "rebuild", "pending", "pending_call", "run"]),
    "samemap._batches": (_batches, ["rebuild_plain_results", "rebuild_results"]),
    "samemap._subclasses": (_subclasses, ["rebuild_subclass", "rebuild_masked"]),
    "samemap._errors": (_errors, ["BackingTruncatedError"]),
}
# In pickles by their index: what NumPy and joblib make of damage is theirs.
RECORDS = np.dtype((np.record, fuzz_message.DTYPES[11]))
OTHERS = [*fuzz_message.DTYPES, RECORDS, np.dtype("i2")]
OTHERS += [np.matrix, np.recarray, np.ma.MaskedArray]
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
        if (module, name) == ("_pickle", "loads"):
            return loads
        if (module, name) == (__name__, "task"):
            return task
        owner, names = FUNCTIONS.get(module, (None, ()))
        if name not in names:
            raise pickle.UnpicklingError(f"{module}.{name} is not for this test")
        return getattr(owner, name)

    def persistent_load(self, number):
        return OTHERS[number]


def loads(data):
    """Load a pickle in a pickle."""
    return Unpickler(io.BytesIO(data)).load()


def task(*arrays, **kwargs):
    """Return what a task of a batch was given."""
    return arrays, kwargs


def dumps(obj):
    """Pickle as for a worker: arrays and results."""
    file = io.BytesIO()
    Pickler(file).dump(obj)
    return file.getvalue()


def opcodes(message):
    """Cut pickles into their opcodes, without the frames around them."""
    file = io.BytesIO(message)
    parsed = []
    while file.tell() < len(message):
        parsed += [(code.name, at) for code, _, at in pickletools.genops(file)]
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


class BatchPickler(pickle.Pickler):
    """The same for batches, of which there is a pickler for each table."""

    persistent_id = Pickler.persistent_id

    def __init__(self, file, table):
        super().__init__(file, 5)
        self.dispatch_table = dict(table)

    def register(self, cls, reduce):
        self.dispatch_table[cls] = reduce


class Held(list):
    """An object that leads to arrays."""

    def __reduce__(self):
        return task, tuple(self)


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
        error = samemap.BackingTruncatedError("message", "path", "1", "2")
        self.keep = plain, private
        batches = [
            [(task, (private, private[::2], [plain]), {"x": private})] * 2,
            [(task, ([plain[3:]], np.arange(9), records.view(np.recarray)), {})] * 2,
            [(task, (np.asarray(private)[n:], {"x": (private,)}), {}) for n in (0, 9)],
            # In parts: an object of one task leads to an argument of two.
            [(task, (private, Held([private, plain])), {}), (task, (private,), {})],
        ]
        self.pickles = [
            opcodes(message)
            for message in (
                dumps([plain[::-1], plain[3:40:2], plain.reshape(2, -1).T]),
                dumps([private, private[::2], np.asarray(private)[:0]]),
                dumps((records[::2], records.view(np.recarray))),
                dumps(plain[:9].view(np.matrix)),
                dumps(np.ma.MaskedArray(plain, np.asarray(plain) > 5)),
                dumps([error, _batches.Results([plain[5:]], (1, 1))]),
                *(self.batch(batch) for batch in batches),
            )
        ]
        for codes in self.pickles:
            self.load(b"".join(data for _, data in codes))

    def batch(self, tasks):
        """Pickle the tasks of a batch, one object after the other."""
        table = make_table(Options(), max_nbytes=100)
        writer = _envelope.Writer(lambda: BatchPickler, table)
        return writer.write_tasks(tasks, [])[2]

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
        file = io.BytesIO(data)
        unpickler = Unpickler(file)
        found = []
        while file.tell() < len(data):
            found.append(unpickler.load())
        return found

    def case(self):
        """Load one damaged pickle; read all arrays of what comes back."""
        try:
            result = self.load(self.message())
        except Exception as error:
            self.found[type(error).__name__] += 1
            return
        self.found[type(result).__name__] += 1
        self.look(result, depth=6)
        try:
            result = _core.run(task, (result,), {})
        except Exception as error:
            self.found[f"task: {type(error).__name__}"] += 1
            return
        self.found["task"] += 1
        self.look(result, depth=8)

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
