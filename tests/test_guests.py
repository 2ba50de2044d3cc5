"""Classes of other libraries on mapped memory, whenever they were imported."""

import copyreg
import io
import pickle
import sys

import numpy as np
import pytest
import samemap
from joblib import Parallel, delayed
from samemap import _subclasses, _tables
from support.scripts import run_script

pytestmark = pytest.mark.needs_maps


def carried(obj):
    """Return what arrives, and how many arrays went by reference on the way."""
    before = samemap.stats()["by reference"]["arrays"]
    message = samemap.dumps(obj)
    return samemap.loads(message), samemap.stats()["by reference"]["arrays"] - before


def same(obj):
    return obj


def values(array):
    return getattr(array, "value", array).tolist()


@pytest.fixture
def table_path(tmp_path):
    """A FITS file with a table of 1,000 rows."""
    fits = pytest.importorskip("astropy.io.fits")
    columns = [
        fits.Column("a", "D", array=np.arange(1000.0)),
        fits.Column("n", "J", array=np.arange(1000)),
        fits.Column("name", "10A", array=np.arange(1000).astype("U")),
    ]
    path = tmp_path / "table.fits"
    fits.BinTableHDU.from_columns(columns).writeto(path)
    return path


@pytest.fixture
def records(table_path):
    """The table's records, on mapped memory."""
    from astropy.io import fits

    with fits.open(table_path, memmap=True) as hdus:
        yield hdus[1].data


@pytest.fixture
def quantity(records):
    from astropy import units

    quantity = units.Quantity(records["a"], units.m / units.s, copy=False)
    quantity.info.name = "speed"
    quantity.info.meta = {"seen": "today"}
    quantity.note = "mine"
    return quantity


@pytest.fixture
def column(records):
    from astropy.table import Column

    return Column(
        records["a"],
        name="speed",
        unit="km / s",
        format="%.2f",
        description="how fast",
        meta={"seen": "today"},
        copy=False,
    )


@pytest.fixture
def masked_column(records):
    from astropy.table import MaskedColumn

    mask = records["n"] % 7 == 0
    column = MaskedColumn(
        records["a"], name="speed", unit="km / s", mask=mask, copy=False
    )
    column.fill_value = -1
    return column


def assert_equal_columns(found, expected):
    assert type(found) is type(expected)
    for name in ("name", "unit", "format", "description", "meta", "dtype", "strides"):
        assert getattr(found, name) == getattr(expected, name), name
    assert found.parent_table is None
    assert found.indices == []


@pytest.mark.needs_pagemap
def test_quantity(quantity):
    """A Quantity goes by reference with unit, info and attributes."""
    found, count = carried(quantity)
    assert count == 1
    assert type(found) is type(quantity)
    assert (found == quantity).all()
    assert (found.unit, found.strides) == (quantity.unit, quantity.strides)
    assert found.dtype == quantity.dtype
    assert (found.info.name, found.info.meta) == ("speed", {"seen": "today"})
    assert found.note == "mine"
    assert (found.to("km/h") == quantity.to("km/h")).all()


@pytest.mark.needs_pagemap
def test_column(column):
    """A Column goes by reference with name, unit, format and meta."""
    found, count = carried(column)
    assert count == 1
    assert_equal_columns(found, column)
    assert (found == column).all()
    assert found[3:5].name == "speed"


@pytest.mark.needs_pagemap
def test_masked_column(masked_column):
    """A MaskedColumn goes by reference with its mask and fill value."""
    masked_column.harden_mask()
    found, count = carried(masked_column)
    assert count == 1
    assert_equal_columns(found, masked_column)
    assert (found.mask == masked_column.mask).all()
    assert found.filled().tolist() == masked_column.filled().tolist()
    assert found.fill_value == -1
    assert found.hardmask
    assert found[7] is np.ma.masked
    found.mask[1] = True
    assert not masked_column.mask[1]


@pytest.mark.needs_pagemap
def test_masked_column_without_a_mask(records, raw_file):
    """No mask stays no mask; a mapped mask is enough to go by reference."""
    from astropy.table import MaskedColumn

    column = MaskedColumn(records["a"], copy=False)
    column._mask = np.ma.nomask
    found, count = carried(column)
    assert (count, found._mask is np.ma.nomask) == (1, True)
    mapped = np.memmap(raw_file(np.arange(100) % 7 == 0), bool, "r")
    column = MaskedColumn(np.arange(100.0), mask=mapped, copy=False)
    column._mask = mapped
    found, count = carried(column)
    assert count == 1
    assert (found.mask == mapped).all()


def test_quantity_that_refers_to_itself(quantity):
    """Attributes lead back to the array that has them, as in the class's pickle."""
    quantity.me = quantity
    found, _ = carried(quantity)
    assert found.me is found


@pytest.mark.needs_pagemap
def test_indexed_table(records):
    """The columns of a table with an index arrive, and the index works."""
    from astropy.table import Table

    table = Table(records, copy=False)
    table.add_index("n")
    found, count = carried(table)
    assert count >= 2
    [index] = found["n"].info.indices
    assert list(index.find((17,))) == [17]
    assert index.columns[0] is found["n"]
    assert found["a"].tolist() == table["a"].tolist()


@pytest.mark.parametrize("make", ["quantity", "column", "masked_column"])
def test_ordinary_memory_is_left_to_the_class(make, request):
    """In ordinary memory what is pickled is what the class says."""
    array = request.getfixturevalue(make).copy()
    file = io.BytesIO()
    samemap.Pickler(file).dump(array)
    pickled = pickle.loads(file.getvalue())
    names = {op for op in (b"rebuild_subclass", b"set_") if op in file.getvalue()}
    assert not names
    assert type(pickled) is type(array)
    assert values(pickled) == values(array)


@pytest.mark.parametrize("make", ["quantity", "column", "masked_column", "records"])
@pytest.mark.needs_pagemap
def test_through_workers(backend, make, request):
    """Workers get them and give them back; `explain` says so; strict lets them."""
    array = request.getfixturevalue(make)
    assert samemap.explain(array)["by_reference"]
    with samemap.enabled(strict=True):
        [found] = Parallel(n_jobs=2, backend=backend)([delayed(same)(array)])
    assert type(found) is type(array)
    assert values(found) == values(array)
    assert getattr(found, "unit", None) == getattr(array, "unit", None)


def test_strict_sees_them(column, quantity):
    """What has no file can't go by reference: strict says so, not only `explain`."""
    import mmap

    from astropy import units
    from astropy.table import Column

    memory = np.frombuffer(mmap.mmap(-1, 8192))
    for array in (Column(memory, copy=False), units.Quantity(memory, "m", copy=False)):
        assert samemap.explain(array)["reason"] == "anonymous"
        with pytest.raises(samemap.StrictError):
            samemap.dumps(array, strict=True)


@pytest.mark.needs_pagemap
def test_subclass_that_is_not_known(quantity):
    """A class derived from a known one is its own: that is said."""
    from astropy.coordinates import Angle

    angle = Angle(np.asarray(quantity), "deg", copy=False)
    told = samemap.explain(angle)
    assert (told["by_reference"], told["reason"]) == (False, "subclass")


@pytest.mark.parametrize("mapped", [True, False])
@pytest.mark.needs_pagemap
def test_fits_attributes(records, mapped):
    """A FITS_rec keeps its attributes, its class's own and those somebody set."""
    array = records if mapped else records.copy()
    array.note = ["mine"]
    array.me = array
    array._character_as_bytes = True
    found, count = carried(array)
    assert bool(count) == mapped
    assert found.note == ["mine"]
    assert found.me is found
    assert found._character_as_bytes is True
    assert found["name"].dtype.kind == "S"
    assert found["a"].tolist() == array["a"].tolist()
    assert found.columns.names == array.columns.names
    assert {*found.__dict__} == {*array.__dict__}


# In one process for all: what it is about is the order of imports.
LATE = """
    import sys

    import numpy as np
    import samemap
    from joblib import Parallel, delayed
    from samemap import _subclasses, _tables

    def count(obj):
        before = samemap.stats()["by reference"]["arrays"]
        samemap.loads(samemap.dumps(obj))
        return samemap.stats()["by reference"]["arrays"] - before

    early = _tables.make_table(_tables.Options())
    assert not _subclasses.late(early)
    assert "pandas" not in sys.modules and "astropy" not in sys.modules
"""


def test_late_pandas():
    """pandas' blocks are among the late entries of a table made before it."""
    pytest.importorskip("pandas")
    source = """
        import pandas as pd
        block = type(pd.DataFrame(np.zeros((3, 4)))._mgr.blocks[0])
        late = _subclasses.late(early)
        print(block in late, block in _tables.make_table(_tables.Options()))
        print(dict(_subclasses.late({**early, **late})))
        print(block in _subclasses.late({**early, block: len}))
    """
    assert run_script(LATE + source.replace("\n    ", "\n")).split("\n")[:3] == [
        "True True",
        "{}",
        "False",
    ]


def test_late_astropy():
    """astropy's classes are among the late entries, each when it is imported."""
    pytest.importorskip("astropy")
    source = """
        import astropy.units
        names = lambda: sorted(c.__name__ for c in _subclasses.late(early))
        print(names())
        import astropy.table, astropy.io.fits
        print(names())
    """
    assert run_script(LATE + source.replace("\n    ", "\n")).split("\n")[:2] == [
        "['Quantity']",
        "['Column', 'FITS_rec', 'MaskedColumn', 'Quantity']",
    ]


def test_late_registered():
    """A class that is registered later is a late entry too."""

    class Own(np.ndarray):
        pass

    early = _tables.make_table(_tables.Options())
    assert not _subclasses.late(early)
    try:
        samemap.register(Own)
        assert {*_subclasses.late(early)} == {Own}
    finally:
        del _subclasses._known[Own]


def test_module_that_is_being_imported(monkeypatch):
    """A module that isn't complete is looked at again."""
    import types

    module = types.ModuleType("guest")
    module.__spec__ = types.SimpleNamespace(_initializing=True)
    guests = {"guest": {"Own": _subclasses.reduce_subclass}}
    monkeypatch.setattr(_subclasses, "_GUESTS", guests)
    monkeypatch.setattr(_subclasses, "_absent", frozenset(guests))
    monkeypatch.setattr(_subclasses, "_known", {})
    monkeypatch.setitem(sys.modules, "guest", module)
    assert not _subclasses.late({})
    module.Own = type("Own", (np.ndarray,), {})
    assert not _subclasses.late({})
    module.__spec__._initializing = False
    assert {*_subclasses.late({})} == {module.Own}
    monkeypatch.setitem(sys.modules, "guest", None)
    monkeypatch.setattr(_subclasses, "_absent", frozenset(guests))
    monkeypatch.setattr(_subclasses, "_known", {})
    assert not _subclasses.late({})


def test_nothing_late_is_quick():
    """The look at what was imported costs less than a microsecond a message."""
    import timeit

    table = {**copyreg.dispatch_table, **_tables.make_table(_tables.Options())}
    times = timeit.repeat(lambda: _subclasses.late(table), number=1000, repeat=20)
    assert min(times) < 1e-3
