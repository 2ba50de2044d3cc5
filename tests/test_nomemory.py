"""Memory that runs out at every single allocation of reduce, rebuild and run."""

import pytest
from support.scripts import run_script

_testcapi = pytest.importorskip("_testcapi")

pytestmark = pytest.mark.needs_maps

SOURCE = """
import os, sys
from pathlib import Path
import numpy as np
import _testcapi
import samemap
from samemap import _core
from support.encoding import ALONE, MEMMAP, OWN, PRIVATE, WRITEABLE, encode
from support.own_memory import holdings
from support.references import ELSEWHERE, NOBODY, attach, backing, reference

folder = Path(sys.argv[1])
path = folder / "file"
np.arange(2000.0).tofile(path)
kept = np.memmap(path, np.float64, "r+")
private = np.memmap(path, np.float64, "c")
private[7] = 1
records = kept[:4].view([("a", "f4"), ("b", "f4")])
reduce = _core.Reducer().reduce
known = {**reference(kept), "token": ELSEWHERE}
mapped = attach(known)
encoded = lambda flags: encode("f8", (5,), (8,), 8, flags | WRITEABLE)
shared, own, pages, alone = map(encoded, (0, OWN, PRIVATE, PRIVATE | ALONE))

def source(arguments=known):
    return _core.attach(*arguments.values())

def rebuilt(*arguments, **others):
    # On a source that has no mapping yet.
    return lambda: lambda one=source({**known, **others}): _core.rebuild(
        one, *arguments)

def with_header(layout):
    one = source()
    return lambda: _core.rebuild((one, "name", 0, "r+"), layout)

def fixed(function, *arguments):
    return lambda: lambda: function(*arguments)

def reduce_new():
    array = np.memmap(path, np.float64, "r")
    return lambda: reduce(array)

def reduce_address():
    array = np.from_dlpack(np.asarray(kept))
    return lambda: reduce(array)

def attach_by_sender():
    new = dict(token=os.urandom(16), path=b"/gone")
    return lambda: attach(known, **new)

def reduce_by_text():
    _core.set_map_table("text")
    array = np.from_dlpack(np.asarray(kept))
    return lambda: reduce(array)

def reduce_elements():
    private[1000:] += 1
    return lambda: reduce(private[::50])

def attach_new():
    new = os.urandom(16)
    return lambda: attach(known, token=new)

(folder / "cut").touch()
named = backing(kept)
copy = np.arange(9)
wrong = {**known, "token": b"wrong...........", "path": b"/dev/null", "pid": NOBODY}
def new_pending():
    one = source()
    return lambda: _core.pending(one, pages, None, (8, b"x"), (add, 1))

def add(array, number):
    return array

def run_tasks():
    one = source()
    first = _core.pending(one, pages, None, (8, b"12345678"))
    second = _core.pending((one, "name", 0, "r+"), pages)
    copied = _core.pending(bytes(48), shared, None, None, (add, 1))
    called = _core.pending_call(add, second, 2)
    looped = [{"x": (first, copied)}, called]
    looped.append(looped)
    # Made before memory fails: CPython 3.13 crashes where it can make no function.
    def task(*args, **kwargs):
        pass

    return lambda: _core.run(task, (first, looped), {"y": looped})

def scanned():
    message = _core.Outgoing(held=[])
    tasks = [(add, (kept, [{"x": private}]), {"y": records}) for _ in range(9)]
    tasks.append((add, (private, add.__call__, object()), {}))
    return lambda: message.objects(tasks, {np.memmap})

def reduce_pending():
    message = _core.Outgoing(held=[])
    message.objects([(add, (private, kept, copy), {})] * 2, {})
    message.enter(3)
    return lambda: (message, reduce(private), reduce(kept), reduce(copy))

# Each makes a new function to be called once.
cases = dict(
    reduce_known=fixed(reduce, kept[::-1]),
    reduce_new=reduce_new,
    reduce_private=fixed(reduce, private),
    reduce_records=fixed(reduce, records["b"]),
    reduce_address=reduce_address,
    reduce_by_text=reduce_by_text,
    reduce_memory=fixed(reduce, copy),
    backing=fixed(named.__reduce__),
    describe=fixed(_core.describe, kept),
    attach_known=fixed(attach, known),
    attach_new=attach_new,
    attach_by_sender=attach_by_sender,
    reduce_elements=reduce_elements,
    attach_wrong=fixed(attach, wrong),
    reduce_result=fixed(_core.Reducer(backward=True).reduce, kept),
    rebuild_ndarray=rebuilt(shared),
    rebuild_memmap=lambda: with_header(encoded(MEMMAP)),
    rebuild_view_of_memmap=lambda: with_header(shared),
    rebuild_bytes=fixed(_core.rebuild, bytes(200), shared),
    rebuild_own=rebuilt(own),
    rebuild_private=rebuilt(pages, None, (8, b"x")),
    rebuild_alone=rebuilt(alone, None, (8, b"x")),
    pending=new_pending,
    run_tasks=run_tasks,
    scanned=scanned,
    reduce_pending=reduce_pending,
)

def outcome(make, n):
    #Let the n-th allocation fail; tell what came of it.
    function = make()
    _testcapi.set_nomemory(n, n + 1)
    try:
        function()
    except (MemoryError, samemap.SamemapError, SystemError) as error:
        _testcapi.remove_mem_hooks()
        # CPython 3.11 itself loses an exception when it finds no memory for the
        # frame of its traceback. A function of ours would be named.
        assert type(error) is not SystemError or str(error) == lost, error
        return type(error).__name__
    finally:
        _testcapi.remove_mem_hooks()

lost = "error return without exception set"

def open_table():
    _core.describe(np.from_dlpack(np.asarray(kept)))

def try_once(make):
    open_table()
    try:
        make()()
    except samemap.SamemapError:
        pass

for name, make in cases.items():
    try_once(make)
    before = holdings(folder)
    failed, quiet, n = 0, 0, 0
    while quiet < 25:
        if outcome(make, n) == "MemoryError":
            failed, quiet = failed + 1, 0
        else:
            quiet += 1
        n += 1
    after = holdings(folder)
    assert after == before, (name, before, after)
    try_once(make)
    _core.set_map_table("auto")
    print(name, failed)
assert samemap.loads(samemap.dumps(kept[::-1]))[0] == kept[-1]
print("done")
"""


@pytest.mark.timeout(300)
def test_every_allocation(tmp_path):
    """An exception each time, never a crash; descriptors and maps as before."""
    lines = run_script(SOURCE, tmp_path, timeout=280).splitlines()
    assert lines.pop() == "done"
    failures = {name: int(count) for name, count in map(str.split, lines)}
    for name in ("reduce_new", "reduce_private", "attach_new", "rebuild_own"):
        assert failures[name] >= 2, failures
    for name in ("rebuild_memmap", "rebuild_private", "run_tasks", "scanned"):
        assert failures[name] >= 2, failures
