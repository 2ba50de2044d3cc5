"""Every layout, to the worker and back, through both pools and through `dumps`.

All arrays of a group travel in one call of `Parallel`; each test looks at one.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import samemap
from joblib import Parallel, delayed
from support import machine
from support.equality import differences, fingerprint, same_place
from support.layouts import FILES, OWNERS, PRIVATE, VIEWS, open_file, random_bytes, view

pytestmark = pytest.mark.filterwarnings("ignore:.*from broadcast_array:FutureWarning")

# What a copy of shared memory need not keep.
COPIED = {"writeable", "has_mmap", "strides", "c_contiguous", "f_contiguous"}

ROUTES = ["dumps", "loky", "multiprocessing"]


@dataclass
class Journey:
    """One array that went to a worker, and what came back."""

    array: np.ndarray
    sent: dict[str, Any]
    received: dict[str, Any]
    result: np.ndarray


def look(array):
    """In the worker: describe the array, and send it back."""
    return fingerprint(array), array


def travel(route, arrays):
    """Send {expression: array} to workers; return {expression: Journey}."""
    sent = [fingerprint(array) for array in arrays.values()]
    if route == "dumps":
        found = [look(samemap.loads(samemap.dumps(a))) for a in arrays.values()]
    else:
        tasks = [delayed(look)(array) for array in arrays.values()]
        found = Parallel(n_jobs=2, backend=route)(tasks)
    journeys = [
        Journey(array, before, *after)
        for array, before, after in zip(arrays.values(), sent, found, strict=True)
    ]
    return dict(zip(arrays, journeys, strict=True))


@pytest.fixture(scope="module", params=OWNERS, ids=lambda owner: owner.__name__)
def flat(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("flat") / "data"
    path.write_bytes(random_bytes())
    return request.param(path)


@pytest.fixture(scope="module", params=ROUTES)
def views(request, flat):
    arrays = {name: view(flat, name) for name in VIEWS}
    return travel(request.param, arrays), request.param


@pytest.fixture(scope="module", params=ROUTES)
def files(request, tmp_path_factory):
    directory = tmp_path_factory.mktemp("files")
    arrays = {name: open_file(directory, name) for name in FILES}
    return travel(request.param, arrays), request.param


@pytest.fixture(scope="module", params=ROUTES)
def private(request, tmp_path_factory):
    directory = tmp_path_factory.mktemp("private")
    arrays = {name: open_file(directory, name) for name in PRIVATE}
    return travel(request.param, arrays), request.param


def check_result(journey, by_reference):
    """The result is the same array, or an exact copy; in neither case
    it lies on the caller's own mapping."""
    result, array = journey.result, journey.array
    assert array.nbytes == 0 or not same_place(result, array)
    if by_reference:
        assert not differences(fingerprint(result), journey.sent)
        return
    assert differences(fingerprint(result), journey.sent).keys() <= COPIED


@pytest.mark.parametrize("name", VIEWS)
def test_view(views, flat, name):
    """The view arrives as it is; so does its result where it lies in an np.memmap,
    and elsewhere it is a copy. Neither is on the caller's own mapping."""
    journeys, route = views
    journey = journeys[name]
    if not machine.MAPS:
        found = differences(journey.received, journey.sent)
        assert found.keys() <= COPIED
        return
    assert not differences(journey.received, journey.sent)
    check_result(journey, by_reference=route == "dumps" or type(flat) is np.memmap)


@pytest.mark.needs_maps
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.needs_descriptors)
        if name.startswith("temporary")
        else name
        for name in FILES
    ],
)
def test_file(files, name):
    """However the file was opened: the same array, and the same of an np.memmap back,
    on another map of the file; of other maps a copy."""
    journeys, route = files
    journey = journeys[name]
    assert not differences(journey.received, journey.sent)
    check_result(journey, by_reference=route == "dumps" or "mapped" not in name)


@pytest.mark.needs_pagemap
@pytest.mark.parametrize("name", PRIVATE)
def test_private(private, name):
    """Private pages arrive as the sender sees them, modified or not, and so they
    come back."""
    journeys, route = private
    journey = journeys[name]
    assert not differences(journey.received, journey.sent)
    check_result(journey, by_reference=route == "dumps" or "mapped" not in name)


def test_fingerprint_tells_arrays_apart(flat):
    """The comparison is no formality: all these views differ."""
    m = flat[:64].view("f8")
    unlike = [
        m,
        m[::-1],
        m[::-1][::-1].view("i8"),
        m.view(">f8"),
        m.view(np.dtype("f8", metadata={"unit": "K"})),
        m.reshape(2, 4),
        m.reshape((2, 4), order="F"),
        m.reshape(1, 8),
        m.reshape(1, 8)[::-1],
        m[:4],
        m[4:],
        m[:0],
        flat[1:57].view("f8"),
        np.broadcast_to(m, m.shape),
        m.view([("a", "f8")]),
        m.view(np.dtype([("a", "f8")], align=True)),
        m.view(np.recarray),
    ]
    found = [repr(fingerprint(array)) for array in unlike]
    assert len(set(found)) == len(unlike)


def test_overflow(make_file):
    """Strides that reach round the address space are refused."""
    array = np.memmap(make_file("a", 1), np.uint8, "r")
    for strides in [(1 << 62,), (-(1 << 62),)]:
        around = np.lib.stride_tricks.as_strided(array, (5,), strides)
        with pytest.raises(ValueError, match="overflow"):
            samemap.explain(around)
