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
from support.references import attach, elsewhere, reference

rounds, folder = int(sys.argv[1]), Path(sys.argv[2])
path = folder / "file"
np.arange(2000.0).tofile(path)
kept = np.memmap(path, np.float64, "r+")
arguments = reference(kept)

def fails(function, *arguments):
    try:
        function(*arguments)
    except Exception:
        return
    raise SystemExit("no error")

def once():
{body}

def stock():
    gc.collect()
    maps = Path("/proc/self/maps").read_text().count(str(folder))
    return len(os.listdir("/proc/self/fd")), maps, _core.known()

window = max(rounds // 4, 100)
for _ in range(rounds):
    once()
before, growth = stock(), []
# Caches and free lists still fill in one window or another; what is lost each
# round shows in every one.
while len(growth) < 12 and (not growth or growth[-1] >= window / 10):
    blocks = sys.getallocatedblocks()
    for _ in range(window):
        once()
    after = stock()
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
        face = elsewhere(arguments), "name", 0, "r"
        array = _core.rebuild(face, b"\\1\\x0c\\1\\0\\5\\x10")
        assert type(array) is np.memmap
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
        fails(_core.rebuild, elsewhere(arguments), b"\\1\\x0c\\1\\0\\xff\\xff\\7\\x10")
        fails(_core.rebuild, elsewhere(arguments), b"", None, (1, 2, 3))
        fails(_core.rebuild, (kept.base, 1, 2), b"")
        fails(lambda: elsewhere(arguments, token=b"short"))
        fails(lambda: elsewhere(arguments, path=b"/dev/zero"))
        fails(lambda: elsewhere(arguments, path=b"/"))
        fails(lambda: elsewhere(arguments, length=1 << 40))
    """,
    "through the sender": """
        elsewhere(arguments, path=b"/gone", pid=os.getpid())
    """,
    "noted": """
        message = _core.incoming()
        lost = elsewhere(arguments, path=b"/gone")
        _core.rebuild(lost, b"\\1\\x0c\\0\\0")
        _core.refused(ValueError("x"), np.dtype("f8"), b"\\0\\xff\\1\\0\\5\\0")
        assert type(message.close()) is samemap.BackingNotFoundError
    """,
    "refused": """
        array = np.memmap(folder / "cut", np.float64, "w+", shape=(600,))
        os.truncate(folder / "cut", 10)
        message = _core.Outgoing(carries=True, held=[])
        function, arguments = _core.Reducer().reduce(array)
        assert function is _core.refused
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
        from support.references import ELSEWHERE, attach, reference
        maps = lambda: Path("/proc/self/maps").read_text().count(sys.argv[1])
        array = np.memmap(sys.argv[1], np.float64, "w+", shape=(1000,))
        arguments = {**reference(array), "token": ELSEWHERE}
        del array
        assert maps() == 0
        layout = b"\\1\\x0c\\1\\0\\5\\x10"
        view = _core.rebuild(attach(arguments), layout)
        other = view[::2]
        assert maps() == 1
        assert _core.rebuild(attach(arguments), layout).base is view.base
        del view
        assert maps() == 1
        del other
        assert (maps(), _core.known()) == (0, 0)
    """
    run_script(source, tmp_path / "file")
