"""Nothing is kept: rounds of each entry point, the failing paths too.

Warm up, take stock of descriptors, maps, registered mappings and memory blocks, go
round, take stock again until nothing has grown. ``SAMEMAP_ROUNDS=10000`` makes many
rounds.
"""

import os

import pytest
from support.scripts import run_script

pytestmark = pytest.mark.needs_maps  # to take stock

ROUNDS = int(os.environ.get("SAMEMAP_ROUNDS", "1000"))

FRAME = """
import gc, os, pickle, sys
from pathlib import Path
import numpy as np
import samemap
from samemap import _core
from samemap._batches import pool_pickler
from samemap._envelope import Writer, read_tasks
from samemap._tables import Options, make_table
from support.encoding import ALONE, MEMMAP, OWN, PRIVATE, WRITEABLE, encode
from support.own_memory import holdings
from support.references import attach, elsewhere, reference

rounds, folder = int(sys.argv[1]), Path(sys.argv[2])
path = folder / "file"
np.arange(2000.0).tofile(path)
kept = np.memmap(path, np.float64, "r+")
arguments = reference(kept)
writer = Writer(pool_pickler, make_table(Options(), max_nbytes=1000))
layout = encode("f8", (5,), (8,), 0)
flagged = lambda flags: encode("f8", (5,), (8,), 8, flags | WRITEABLE)
source = lambda: _core.attach(*{**arguments, "token": b"another token..."}.values())

def fails(function, *arguments):
    try:
        function(*arguments)
    except Exception:
        return
    raise SystemExit("no error")

def add(array, number, x=None):
    return array + number

def take(args, kwargs):
    return _core.run(lambda *a, **k: (a, k), args, kwargs)

def elsewhere_source():
    return _core.attach(*{**arguments, "token": bytes(16), "path": b"/gone",
                          "pid": 1 << 30}.values())

def once():
{body}

window = max(rounds // 4, 100)
for _ in range(rounds):
    once()
before, growth = holdings(folder), []
# Caches and free lists still fill in one window or another; what is lost each
# round shows in every one.
while len(growth) < 12 and (not growth or growth[-1] >= window / 10):
    blocks = sys.getallocatedblocks()
    for _ in range(window):
        once()
    after = holdings(folder)
    assert after == before, (before, after)
    growth.append(sys.getallocatedblocks() - blocks)
more = growth[-1]
assert more < window / 10, growth
print("flat", more)
"""

BODIES = {
    "dumps and loads": """
        samemap.loads(samemap.dumps([kept[::-1], np.asarray(kept)[3:], kept[:0]]))
    """,
    "a new mapping each time": """
        array = np.memmap(path, np.float64, "r")
        data = samemap.dumps(array[::2])
        del array
        samemap.loads(data)
    """,
    "private, with patches": """
        array = np.memmap(path, np.float64, "c")
        array[5] = 1
        samemap.loads(samemap.dumps(array))[6] = 2
    """,
    "unlinked": """
        array = np.memmap(folder / "gone", np.float64, "w+", shape=(600,))
        (folder / "gone").unlink()
        samemap.loads(samemap.dumps(array))
        samemap.explain(array)
    """,
    "attach and rebuild": """
        array = _core.rebuild((source(), "name", 0, "r"), flagged(MEMMAP))
        assert type(array) is np.memmap
        for flags in (OWN, PRIVATE, PRIVATE | ALONE):
            _core.rebuild((source(), "name", 8, "r"), flagged(flags))
        _core.rebuild(source(), flagged(PRIVATE), None, (8, b"12345678"))
        _core.rebuild(source(), flagged(PRIVATE), None, (None, bytes(40)))
    """,
    "pending and take": """
        one = source()
        first = _core.pending(one, flagged(PRIVATE), None, (8, b"12345678"))
        other = _core.pending((one, "name", 8, "r"), flagged(PRIVATE))
        copied = _core.pending(bytes(48), flagged(0))
        finished = _core.pending(bytes(48), flagged(0), None, None, (add, 3))
        called = _core.pending_call(add, first, 4)
        looped = [first, copied, called]
        looped.append(looped)
        arguments = ({"x": looped}, (first, other, finished)), {"y": [looped]}
        for _ in range(3):
            args, kwargs = take(*arguments)
            assert args[0]["x"] is kwargs["y"][0] and args[1][2][0] == 3
            args[1][0][:] = 7
            args[1][1][:] = 8
        _core.pending(source(), flagged(PRIVATE))
    """,
    "what can't be taken": """
        one = _core.pending(elsewhere_source(), flagged(PRIVATE))
        fails(take, ([one],), {})
        bad = _core.pending(bytes(48), flagged(0), None, None, (len, 3))
        fails(take, ([bad],), {"x": bad})
        fails(_core.pending, source(), flagged(0))
        fails(_core.pending, source(), flagged(PRIVATE), None, (1, 2, 3))
        fails(_core.pending, bytes(48), flagged(0), None, None, 5)
        fails(take, [one], {})
    """,
    "a batch": """
        private = np.memmap(path, np.float64, "c")
        private[7] = 8
        objects = np.array([private, {}], dtype=object)
        records = private.view(np.recarray)
        tasks = [(add, (private, i), {"x": [kept, records]}) for i in range(5)]
        tasks.append((add, (objects, private.sum), {}))
        held = []
        for batch in (tasks[:5], tasks):
            message = writer.write_tasks(batch, held)
            for number, (function, args, kwargs) in enumerate(read_tasks(message)):
                if number < 5:
                    function(*args, **kwargs)
                else:
                    fails(function, *args, **kwargs)
    """,
    "a batch that can't be written": """
        array = np.memmap(folder / "cut", np.float64, "w+", shape=(600,))
        os.truncate(folder / "cut", 10)
        for arguments_ in [(array,), (kept, [array]), (np.array([array, 0], object),)]:
            fails(writer.write_tasks, [(add, arguments_, {})] * 2, [])
    """,
    "results": """
        reduce = _core.Reducer(backward=True).reduce
        for array in (kept, kept[::-1], np.asarray(kept), np.memmap(path, "f8", "c")):
            function, arguments_ = reduce(array)[:2]
            backing = arguments_[0][0]
            attach, reference_ = backing.__reduce__()
            function((attach(*reference_), *arguments_[0][1:]), *arguments_[1:])
    """,
    "owner by address": """
        array = np.from_dlpack(np.asarray(np.memmap(path, np.float64, "r+")))
        samemap.loads(samemap.dumps([array, array[::-1]]))
    """,
    "by value": """
        import mmap
        array = np.frombuffer(mmap.mmap(-1, 4096), np.uint8)
        samemap.loads(samemap.dumps([array, np.arange(5), np.array([{}])]))
        fails(lambda: samemap.dumps(array, strict=True))
    """,
    "subclasses": """
        records = kept[:4].view([("a", "f4"), ("b", "f4")]).view(np.recarray)
        samemap.loads(samemap.dumps([records, np.ma.masked_greater(kept, 5)]))
    """,
    "verified": """
        samemap.loads(samemap.dumps(kept[::-1], verify="data"))
    """,
    "replaced": """
        array = np.memmap(folder / "new", np.float64, "w+", shape=(600,))
        data = samemap.dumps(array)
        del array
        (folder / "new").unlink()
        fails(samemap.loads, data)
        (folder / "new").write_bytes(b"other")
        fails(samemap.loads, data)
    """,
    "truncated": """
        array = np.memmap(folder / "cut", np.float64, "w+", shape=(600,))
        os.truncate(folder / "cut", 10)
        fails(samemap.dumps, array)
        fails(samemap.explain, array)
    """,
    "damaged": """
        fails(_core.rebuild, source(), encode("f8", (1 << 20,)))
        fails(_core.rebuild, source(), b"", None, (1, 2, 3))
        fails(_core.rebuild, source(), flagged(PRIVATE), None, (0, b"12", -1, b"3"))
        fails(_core.rebuild, (kept.base, 1, 2), b"")
        fails(_core.rebuild, (source(), 1, 2, 3), b"")
        fails(lambda: elsewhere(arguments, version=1))
        fails(lambda: elsewhere(arguments, token=b"short"))
        fails(lambda: elsewhere(arguments, path=b"/dev/zero"))
        fails(lambda: elsewhere(arguments, path=b"/"))
        fails(lambda: elsewhere(arguments, path=b"/gone", pid=1))
        fails(lambda: elsewhere(arguments, length=1 << 40))
    """,
    "through the sender": """
        elsewhere(arguments, path=b"/gone", pid=os.getpid())
    """,
    "held": """
        held = []
        message = _core.Outgoing(held=held)
        held.append(message)
        reference(kept)
        assert len(held) == 2
    """,
}


@pytest.mark.parametrize("name", BODIES)
def test_flat(name, tmp_path):
    """Descriptors, maps, registry and memory are as before after many rounds."""
    body = BODIES[name].replace("\n    ", "\n").rstrip()
    source = FRAME.replace("{body}", body)
    assert run_script(source, ROUNDS, tmp_path).startswith("flat")


def test_no_mapping_outlives_its_last_array(tmp_path):
    """The worker's map is gone with the last array, whatever stays in memory."""
    source = """
        import subprocess, sys, pickle, gc
        from pathlib import Path
        import numpy as np, samemap
        from samemap import _core
        from support.encoding import encode
        from support.references import ELSEWHERE, reference
        maps = lambda: Path("/proc/self/maps").read_text().count(sys.argv[1])
        array = np.memmap(sys.argv[1], np.float64, "w+", shape=(1000,))
        arguments = {**reference(array), "token": ELSEWHERE}
        del array
        assert maps() == 0
        layout = encode("f8", (5,), offset=8)
        view = _core.rebuild(_core.attach(*arguments.values()), layout)
        other = view[::2]
        assert maps() == 1
        again = _core.rebuild(_core.attach(*arguments.values()), layout)
        assert again.base is view.base
        del view, again
        assert maps() == 1
        del other
        assert (maps(), _core.known()) == (0, 0)
    """
    run_script(source, tmp_path / "file")
