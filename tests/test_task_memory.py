"""What a task gets is its own: from the other tasks of its batch, until it ends."""

import gc
import time
import weakref

import numpy as np
import pytest
from joblib import Parallel, delayed
from joblib.externals.loky.backend import queues
from samemap import _core
from samemap._errors import BackingNotFoundError
from support import references
from support.batches import run_in_batches
from support.encoding import PRIVATE, encode
from support.own_memory import maps_of, number_of_maps, subtract_mean
from support.references import reference

# In a message of another process, which is gone.
ELSEWHERE = {"token": references.ELSEWHERE, "pid": references.NOBODY}

WINDOWS, WIDTH, STEP = 160, 60, 20
COUNT = STEP * WINDOWS + WIDTH

BATCH_SIZES = [pytest.param(1, marks=pytest.mark.long), 10, "auto"]


@pytest.fixture(params=BATCH_SIZES)
def batch_size(request):
    return request.param


def private_memmap(tmp_path, values):
    path = tmp_path / "numbers"
    values.tofile(path)
    return np.memmap(path, values.dtype, "c")


def modified_memmap(tmp_path, values):
    array = private_memmap(tmp_path, np.zeros_like(values))
    array[:] = values
    return array


def fits_image(tmp_path, values, mode="readonly"):
    fits = pytest.importorskip("astropy.io.fits")
    path = tmp_path / "numbers.fits"
    fits.PrimaryHDU(values).writeto(path)
    return fits.open(path, mode=mode)[0].data


def fits_update(tmp_path, values):
    return fits_image(tmp_path, values, "update")


def in_memory(tmp_path, values):
    return values.copy()


@pytest.fixture(params=[private_memmap, modified_memmap, fits_image])
def open_map(request):
    """Private maps, as programs come by them."""
    return request.param


# Windows above `max_nbytes` are what a large array is to joblib.
@pytest.mark.parametrize("max_nbytes", ["1M", 100])
def test_overlapping_windows(backend, tmp_path, open_map, batch_size, max_nbytes):
    """Each window is reduced from the caller's values, none from a neighbour's."""
    rng = np.random.default_rng(0)
    array = open_map(tmp_path, rng.random(COUNT))
    before = array.tobytes()
    windows = [array[STEP * i : STEP * i + WIDTH] for i in range(WINDOWS)]
    tasks = [delayed(subtract_mean)(window) for window in windows]
    found = run_in_batches(backend, batch_size, tasks, max_nbytes=max_nbytes)
    right = [
        np.allclose(result, window - window.mean(), rtol=0, atol=1e-12)
        for result, window in zip(found, windows, strict=True)
    ]
    assert right.count(True) == WINDOWS
    assert array.tobytes() == before


def increment_and_sum(window):
    window += 1
    return float(window.sum())


@pytest.mark.parametrize("open_map", [private_memmap, fits_image, fits_update])
def test_thousands_of_rows(backend, tmp_path, open_map, batch_size):
    """So it is in automatic batches, which grow to thousands of tasks."""
    if batch_size == 1:
        pytest.skip("the batches are what this is about")
    table = open_map(tmp_path, np.zeros(100))
    tasks = [delayed(increment_and_sum)(table)] * 4000
    found = run_in_batches(backend, batch_size, tasks)
    assert found == [100.0] * 4000
    assert not table.any()


def add_one(array):
    array += 1
    return array.tolist()


@pytest.mark.parametrize("fixed", [1, 4, "auto"])
@pytest.mark.parametrize(
    "make", [in_memory, private_memmap, modified_memmap, fits_image, fits_update]
)
def test_one_array_in_many_tasks(backend, tmp_path, make, fixed):
    """The result doesn't depend on how many tasks joblib puts into one batch."""
    array = make(tmp_path, np.zeros(5))
    tasks = [delayed(add_one)(array)] * 8
    assert run_in_batches(backend, fixed, tasks) == [[1.0] * 5] * 8
    assert not array.any()


def add_to_each(first, second, both):
    """As a task: write through one view, tell what the others see."""
    first += 1
    return [
        np.shares_memory(first, second),
        np.shares_memory(both[0], second),
        second.tolist(),
        both[0].tolist(),
        both[1] is second,
    ]


@pytest.mark.needs_pagemap
def test_views_alias_within_a_task(backend, tmp_path, open_map, batch_size):
    """Views of one private map see each other's writes, in their task alone."""
    array = open_map(tmp_path, np.arange(6.0))
    tasks = [(array[:4], array[::-2], [array[2:], None]) for _ in range(20)]
    for task in tasks:
        task[2][1] = task[1]
    tasks = [delayed(add_to_each)(*task) for task in tasks]
    found = run_in_batches(backend, batch_size, tasks)
    seen = [True, True, [5, 4, 2], [3, 4, 4, 5], True]
    assert found == [seen] * 20


def add_and_look(array, other):
    array += 1
    return np.shares_memory(array, other), other.tolist()


def test_two_private_maps_stay_two(backend, tmp_path, batch_size):
    """Two private maps of one file don't see each other's writes, as in the caller."""
    values = np.arange(6.0)
    maps = [private_memmap(tmp_path, values) for _ in range(2)]
    tasks = [delayed(add_and_look)(*maps)] * 20
    found = run_in_batches(backend, batch_size, tasks)
    assert found == [(False, values.tolist())] * 20


def first_and_last(array, number):
    before = array[0], array[number], array[-1]
    array[:] = -1
    return before


@pytest.mark.needs_pagemap
@pytest.mark.parametrize("max_nbytes", ["1M", 100])
def test_modified_pages_in_each_task(backend, tmp_path, batch_size, max_nbytes):
    """The pages that the caller has modified arrive in every task, with the others."""
    array = private_memmap(tmp_path, np.arange(4096))  # eight pages
    array[:100] += 10**6
    array[2000] = -5
    expected = [(10**6, int(array[i]), 4095) for i in range(1990, 2010)]
    tasks = [delayed(first_and_last)(array, i) for i in range(1990, 2010)]
    found = run_in_batches(backend, batch_size, tasks, max_nbytes=max_nbytes)
    assert found == expected
    assert array[2000] == -5


@pytest.mark.needs_pagemap
def test_modified_pages_go_once_a_message(monkeypatch, tmp_path):
    """However many tasks of a batch have the map, its modified bytes go once."""
    array = modified_memmap(tmp_path, np.arange(2.0**17))  # 1 MB
    sizes = []
    dumps = queues.dumps

    def counting(*args, **kwargs):
        message = dumps(*args, **kwargs)
        sizes.append(len(message))
        return message

    monkeypatch.setattr(queues, "dumps", counting)
    tasks = [delayed(np.sum)(array[i:]) for i in range(40)]
    found = run_in_batches("loky", 20, tasks)
    assert found == [array[i:].sum() for i in range(40)]
    assert 2 * array.nbytes < sum(sizes) < 2.5 * array.nbytes


def count_maps(row, path, number):
    """As a task: how many maps are there of the file, and of all? Not each time."""
    row += 1
    return (maps_of(path), number_of_maps()) if number % 50 == 0 else (0, 0)


@pytest.mark.needs_maps
@pytest.mark.parametrize("fixed", [2000, "auto"])
def test_maps_live_as_long_as_their_task(backend, tmp_path, fixed):
    """A batch of thousands of rows never has maps for more than a few tasks."""
    rows = private_memmap(tmp_path, np.zeros(4000 * 512)).reshape(4000, 512)
    path = tmp_path / "numbers"
    tasks = [delayed(count_maps)(row, path, i) for i, row in enumerate(rows)]
    found = run_in_batches(backend, fixed, tasks)[::50]
    of_file, of_all = (np.array(counts) for counts in zip(*found, strict=True))
    assert of_file.max() <= 8
    assert np.ptp(of_all) < 100  # libraries may be loaded meanwhile


ENDED = []


def note_end(array):
    """As a task: tell how many arrays of earlier tasks are gone; leave a note."""
    gone = len(ENDED)
    weakref.finalize(array, ENDED.append, None)
    return gone


@pytest.mark.parametrize(
    "make", [in_memory, private_memmap, modified_memmap, fits_image, fits_update]
)
def test_freed_when_the_task_ends(backend, tmp_path, make):
    """The next task of the same batch finds the copy of the one before it freed."""
    array = make(tmp_path, np.zeros(50))
    gone = run_in_batches(backend, 10, [delayed(note_end)(array)] * 20)
    assert np.diff(gone[:10]).tolist() == [1] * 9
    assert np.diff(gone[10:]).tolist() == [1] * 9


HELD = []


def hold_weakly(array):
    """As a task: are arrays of earlier tasks still alive? The largest counts."""
    gc.collect()
    alive = sum(reference() is not None for reference in HELD)
    HELD.append(weakref.ref(array))
    return alive


@pytest.mark.needs_pagemap
@pytest.mark.parametrize("make", [private_memmap, fits_image])
def test_windows_freed_when_the_task_ends(backend, tmp_path, make):
    """So is a view that one task alone has got."""
    array = make(tmp_path, np.zeros(50))
    tasks = [delayed(hold_weakly)(array[i:]) for i in range(20)]
    alive = run_in_batches(backend, 10, tasks)
    assert max(alive) <= 1  # the last one of the batch before


def fail_on_three(array, number):
    array += 1
    if number == 3:
        raise KeyError(array.tolist())
    return array.tolist()


@pytest.mark.parametrize("make", [in_memory, private_memmap, fits_image])
def test_a_task_that_fails(backend, tmp_path, make):
    """An exception has the task's own array, not what the batch has made of it."""
    array = make(tmp_path, np.zeros(3))
    tasks = [delayed(fail_on_three)(array, i) for i in range(20)]
    with pytest.raises(KeyError) as caught:
        run_in_batches(backend, 10, tasks)
    assert caught.value.args == ([1.0] * 3,)
    tasks = [delayed(add_one)(array)] * 4
    assert run_in_batches(backend, 2, tasks) == [[1.0] * 3] * 4


@pytest.mark.parametrize("make", [in_memory, private_memmap, fits_image])
@pytest.mark.parametrize("return_as", ["list", "generator"])
def test_arguments_as_results(backend, tmp_path, make, return_as):
    """A task that returns its argument returns its own, not the batch's."""
    if (backend, return_as) == ("multiprocessing", "generator"):
        pytest.skip("joblib's multiprocessing backend has no generators")
    array = make(tmp_path, np.zeros(3))
    tasks = [delayed(add_and_return)(array, i) for i in range(20)]
    found = list(run_in_batches(backend, 10, tasks, return_as=return_as))
    assert [result.tolist() for result in found] == [[i] * 3 for i in range(20)]


def add_and_return(array, number):
    array += number
    return array


def test_calls_that_change_the_arguments():
    """A call that makes an argument may change those lists that the task goes by."""
    grown = [[] for _ in range(20)]
    emptied, shortened = [], {}

    def change():
        for some in grown:
            some.append(1)
        emptied.clear()
        shortened.clear()
        return "made"

    emptied.append(_core.pending_call(change))
    emptied += [_core.pending_call(list, [str(i)]) for i in range(20)]
    shortened.update(enumerate(emptied[1:]))
    args = (emptied, shortened, grown)
    found = _core.run(lambda *args: args, args, {})
    assert found == ([], {}, [[1]] * 20)
    inner = [_core.pending_call(lambda: inner.clear() or "made"), *range(9)]
    assert _core.run(list, ([_core.pending_call(list, inner)],), {}) == [["made"]]
    new = _core.pending_call(int)
    late = [_core.pending_call(lambda: late.append(new)), 1]
    with pytest.raises(RuntimeError, match="changed while"):
        _core.run(list, (late,), {})


@pytest.mark.needs_pagemap
def test_memory_that_could_not_be_made(tmp_path):
    """A call that goes on after an error gets it again, also for no elements."""
    array = private_memmap(tmp_path, np.arange(9.0))
    source = _core.attach(*{**reference(array), **ELSEWHERE}.values())
    (tmp_path / "numbers").unlink()

    def load():
        for shape in (9,), (0,), (9,):
            with pytest.raises(BackingNotFoundError):
                _core.rebuild(source, encode("f8", shape, flags=PRIVATE))
        return "made"

    assert _core.run(list, ([_core.pending_call(load)],), {}) == ["made"]


def many_maps(given, count):
    """Views of as many private mappings."""
    layout = encode("f8", (3,), flags=PRIVATE)
    tokens = [i.to_bytes(16, "little") for i in range(1, count + 1)]
    sources = [_core.attach(*{**given, "token": token}.values()) for token in tokens]
    return [_core.pending(source, layout) for source in sources]


def chain(given, count):
    """A list of lists, each with the one before it."""
    links = [many_maps(given, 1)]
    for _ in range(count):
        links.append(links[-1:])
    return links


def seconds(args):
    """Measure how long a task takes to get its arguments, when nothing disturbs."""
    times = []
    for _ in range(3):
        start = time.perf_counter()
        _core.run(len, (args,), {})
        times.append(time.perf_counter() - start)
    return min(times)


@pytest.mark.parametrize("make", [many_maps, chain])
@pytest.mark.needs_pagemap
def test_time_grows_with_the_arguments(tmp_path, make):
    """Sixteen times as much takes sixteen times as long, not its square."""
    given = reference(private_memmap(tmp_path, np.arange(9.0)))
    assert seconds(make(given, 16_000)) < 64 * seconds(make(given, 1000))


def test_threads_have_no_copies(tmp_path):
    """With threads a task has the caller's own array, as ever."""
    array = private_memmap(tmp_path, np.zeros(3))
    found = Parallel(2, "threading")([delayed(add_and_return)(array, 1)] * 4)
    assert all(result is array for result in found)
