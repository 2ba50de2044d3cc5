"""Arrays in ordinary memory arrive as they are when their message is written."""

import pickle
from pathlib import Path

import numpy as np
import pytest
from joblib import Parallel, delayed
from samemap import _core
from samemap._batches import pool_pickler
from samemap._envelope import Exports, Writer, read_tasks
from samemap._tables import Options, make_table

pytestmark = [
    pytest.mark.needs_maps,
    pytest.mark.needs_descriptors,
    pytest.mark.filterwarnings("ignore::samemap.LostWritesWarning"),
]

N = 1_000_000  # float64: 8 MB


def total(array):
    return float(array.sum())


def run_first(message):
    function, args, kwargs = read_tasks(message)[0]
    return function(*args, **kwargs)


def test_batches_made_before_a_proof():
    """What was found after a batch was made counts for it, and for no later one."""
    table = make_table(Options(), stock=bytes, max_nbytes=1000)
    writer = Writer(pool_pickler, table, Exports(1000, lambda: (None, None), lambda: 1))
    array, held = np.zeros(N), []

    def send(since):
        return run_first(writer.write_tasks([(total, (array,), {})], held, since))

    early = _core.new_number()
    assert send(early) == 0
    array += 1
    late = _core.new_number()
    # It was given to be sent before it was changed: both states are right.
    assert send(early) == 0
    assert send(late) == N
    array += 1
    assert send(late) == N
    assert send(_core.new_number()) == 2 * N
    assert send(0) == 2 * N
    array += 1
    assert send(0) == 3 * N
    _core.forget_images()


def elements_of_one_array():
    array = np.zeros(N)
    return array[::5], array[1::5], array


def arrays_on_one_buffer():
    buffer = bytearray(8 * N)
    array = np.frombuffer(buffer)
    return array, np.frombuffer(buffer), array


@pytest.mark.parametrize("make", [elements_of_one_array, arrays_on_one_buffer])
def test_watched_twice(backend, make):
    """What is written between the sendings of two arrays that share pages arrives
    with both: to watch the pages for one doesn't hide it from the other."""
    first, second, memory = make()
    with Parallel(n_jobs=2, backend=backend) as parallel:

        def send(array):
            [result] = parallel([delayed(total)(array)])
            return result

        for _ in range(3):
            assert send(first) == 0
        memory[N // 2] = 7
        for _ in range(3):
            send(second)
        assert send(first) == first.sum() == 7
        memory[N // 2] = 8
        assert send(first) == first.sum() == 8


def fill(number, *arrays):
    """Write to one of the arrays, and tell what is seen in the others."""
    others = list(arrays)
    written = others.pop(number)
    try:
        written[...] = 5
    except ValueError:
        return "read-only"
    return [float(other.sum()) for other in others]


class Holder:
    def __init__(self, array, part):
        self.array = array
        self.part = part

    def fill_part(self, _):
        return fill(0, self.part, self.part)


def square():
    return np.zeros((600, 500))


@pytest.mark.parametrize("batch_size", [1, 2])
@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (lambda x: (x, x[::4]), [5 * 75_000]),
        (lambda x: (x, x[0, :9], x[::4], x[0]), [5 * 9, 5 * 75_000, 5 * 500]),
        (lambda x: (x[0, :9], x[0], x), [5 * 9, 5 * 9]),
        (lambda x: (x[::4], x[::4, 1:]), "read-only"),
        (lambda x: (x[::4], x[:50]), "read-only"),
        (lambda x: (x[::4], square()[::4]), [0]),
    ],
)
def test_views_alias(backend, batch_size, arguments, expected):
    """Arguments that are views of one array alias in their task, in whichever order
    they come; where some would not, they are read-only, as with joblib."""
    options = {"n_jobs": 2, "batch_size": batch_size, "max_nbytes": 1000}
    options["backend"] = backend
    arrays = arguments(square())
    found = Parallel(**options)(delayed(fill)(0, *arrays) for _ in range(3))
    assert found == [expected] * 3
    turned = arguments(square())[::-1]
    found = Parallel(**options)(delayed(fill)(-1, *turned) for _ in range(3))
    assert found == [expected[::-1] if isinstance(expected, list) else expected] * 3


def test_small_part_in_object(backend):
    """A small view in an object is a copy, writeable as with joblib, beside the array
    that goes by a memory file."""
    array = square()
    holder = Holder(array, array[0, :9])
    parallel = Parallel(n_jobs=2, backend=backend, max_nbytes=1000)
    assert parallel(delayed(holder.fill_part)(i) for i in range(3)) == [[45]] * 3


def test_unpickled_array(backend):
    """An unpickled array lies on a bytes object, and is writeable all the same: what is
    written to it arrives."""
    array = pickle.loads(pickle.dumps(np.zeros(N), protocol=4))
    assert type(array.base) is bytes
    with Parallel(n_jobs=2, backend=backend) as parallel:
        for value in range(4):
            array[N // 2] = value
            assert parallel([delayed(total)(array)]) == [value]


@pytest.mark.parametrize("readers", [0, -1])
def test_no_readers(readers):
    """A message that nobody reads is refused: room is divided by their number."""
    with pytest.raises(ValueError, match="positive"):
        _core.Outgoing([], 1000, None, readers)


def watched_nbytes():
    """Bytes of this process whose writes are watched."""
    found = size = 0
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if line.startswith("Size:"):
            size = int(line.split()[1]) * 1024
        elif line.startswith("VmFlags:") and "uw" in line.split():
            found += size
    return found


def test_watch_grows(backend):
    """What is sent as a whole after a part of it is watched as a whole, and still
    arrives as it is."""
    array = np.zeros(N)
    with Parallel(n_jobs=2, backend=backend) as parallel:
        for _ in range(3):
            assert parallel([delayed(total)(array[: N // 4])]) == [0]
        if watched_nbytes() == 0:
            pytest.skip("this system doesn't watch writes")
        for _ in range(3):
            assert parallel([delayed(total)(array)]) == [0]
        assert watched_nbytes() > 0.9 * array.nbytes
        for place in (N // 8, N // 2, N // 8, N - 1):
            array[place] += 1
            assert parallel([delayed(total)(array)]) == [array.sum()]
    assert watched_nbytes() == 0
