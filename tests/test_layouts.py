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
    return travel(request.param, {name: view(flat, name) for name in VIEWS})


@pytest.fixture(scope="module", params=ROUTES)
def files(request, tmp_path_factory):
    directory = tmp_path_factory.mktemp("files")
    return travel(request.param, {name: open_file(directory, name) for name in FILES})


@pytest.fixture(scope="module", params=ROUTES)
def private(request, tmp_path_factory):
    directory = tmp_path_factory.mktemp("private")
    return travel(request.param, {name: open_file(directory, name) for name in PRIVATE})


@pytest.mark.parametrize("name", VIEWS)
def test_view(views, name):
    """The view arrives as it is, and its result is the caller's memory."""
    journey = views[name]
    if not machine.MAPS:
        found = differences(journey.received, journey.sent)
        assert found.keys() <= COPIED
        return
    assert not differences(journey.received, journey.sent)
    assert not differences(fingerprint(journey.result), journey.sent)
    assert journey.array.nbytes == 0 or same_place(journey.result, journey.array)


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
    """However the file was opened: the same array, and the caller's memory back."""
    journey = files[name]
    assert not differences(journey.received, journey.sent)
    assert not differences(fingerprint(journey.result), journey.sent)
    assert same_place(journey.result, journey.array)


@pytest.mark.needs_pagemap
@pytest.mark.parametrize("name", PRIVATE)
def test_private(private, name):
    """Private pages arrive as the sender sees them, modified or not."""
    journey = private[name]
    assert not differences(journey.received, journey.sent)
    assert not differences(fingerprint(journey.result), journey.sent)


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
