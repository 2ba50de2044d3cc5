"""Mapped arrays of real libraries, by reference and seen from outside.

From outside: the message is small, no file is made, and the map table of the
worker names the file (or the same inode, where it has no name).
"""

import multiprocessing.shared_memory
import os
import tempfile
from pathlib import Path

import numpy as np
import pytest
import samemap
from joblib import Parallel, delayed
from support.equality import same_file
from support.scripts import run_script

pytestmark = pytest.mark.needs_maps


def look(array, path):
    """In the worker: the values, and whether the file is mapped there."""
    maps = Path("/proc/self/maps").read_text()
    return np.array(array), str(path) in maps, type(array)


def write_first(array):
    array.reshape(-1)[0] = 77


def send(backend, function, *args):
    tasks = [delayed(function)(*args)]
    return Parallel(n_jobs=2, backend=backend, max_nbytes=1000)(tasks)[0]


def arrives(backend, array, path, message_nbytes=1000):
    """Send an array of more than `max_nbytes`; assert what is seen outside."""
    assert len(samemap.dumps(array)) < message_nbytes
    assert array.nbytes > 1000
    with tempfile.TemporaryDirectory() as folder:
        os.environ["JOBLIB_TEMP_FOLDER"] = folder
        try:
            values, mapped, kind = send(backend, look, array, path)
            assert not [f for f in Path(folder).rglob("*") if f.is_file()]
        finally:
            del os.environ["JOBLIB_TEMP_FOLDER"]
    np.testing.assert_array_equal(values, np.array(array))
    assert mapped
    assert kind is type(array)


@pytest.mark.parametrize(
    "mode",
    [
        pytest.param("readonly", marks=pytest.mark.needs_pagemap),
        "update",
        "denywrite",
    ],
)
def test_fits(backend, tmp_path, mode):
    """FITS: an image goes by reference; a table too, with its columns."""
    fits = pytest.importorskip("astropy.io.fits")
    path = tmp_path / "data.fits"
    columns = [
        fits.Column("a", "D", array=np.arange(1000.0)),
        fits.Column("name", "10A", array=np.arange(1000).astype("U")),
    ]
    image = fits.PrimaryHDU(np.arange(6000, dtype=">f4").reshape(60, 100))
    fits.HDUList([image, fits.BinTableHDU.from_columns(columns)]).writeto(path)
    with fits.open(path, memmap=True, mode=mode) as hdus:
        arrives(backend, hdus[0].data, path)
        arrives(backend, hdus[0].data[::-1, 3:].T, path)
        table = hdus[1].data
        arrives(backend, table.field("a"), path)
        arrives(backend, table, path, message_nbytes=2000)
        copy = samemap.loads(samemap.dumps(table[10:20]))
        assert copy["name"].tolist() == table[10:20]["name"].tolist()
        assert copy.columns.names == ["a", "name"]
        assert copy[3]["a"] == 13


@pytest.mark.needs_pagemap
def test_nifti(backend, tmp_path):
    """NIfTI: nibabel maps privately, in Fortran order."""
    nibabel = pytest.importorskip("nibabel")
    path = tmp_path / "data.nii"
    data = np.arange(6000, dtype=np.float32).reshape(10, 20, 30)
    nibabel.Nifti1Image(data, np.eye(4)).to_filename(path)
    array = np.asanyarray(nibabel.load(path).dataobj)
    assert samemap.explain(array)["sharing"] == "private"
    arrives(backend, array, path)


@pytest.mark.needs_pagemap
def test_arrow(backend, tmp_path):
    """Arrow: read-only private memory of an owner that NumPy doesn't know."""
    pyarrow = pytest.importorskip("pyarrow")
    path = tmp_path / "data.arrow"
    table = pyarrow.table({"x": np.arange(3000.0)})
    with (
        pyarrow.OSFile(str(path), "wb") as file,
        pyarrow.ipc.new_file(file, table.schema) as writer,
    ):
        writer.write_table(table)
    mapped = pyarrow.memory_map(str(path))
    column = pyarrow.ipc.open_file(mapped).read_all()["x"].chunk(0)
    array = column.to_numpy(zero_copy_only=True)
    arrives(backend, array, path)
    arrives(backend, array[::-2], path)
    assert not samemap.loads(samemap.dumps(array)).flags.writeable


@pytest.mark.parametrize(
    "unlinked", [False, pytest.param(True, marks=pytest.mark.needs_descriptors)]
)
def test_shared_memory(backend, unlinked):
    """SharedMemory, also after `unlink`: what the worker writes is its own, unless
    all writable maps were to be shared."""
    memory = multiprocessing.shared_memory.SharedMemory(create=True, size=8000)
    try:
        array = np.ndarray((10, 100), np.float64, memory.buf)
        array[:] = np.arange(1000).reshape(10, 100)
        if unlinked:
            memory.unlink()
        arrives(backend, array[:, ::-1], memory.name)
        send(backend, write_first, array)
        assert array[0, 0] == 0
        with samemap.enabled(write_through=True):
            send(backend, write_first, array)
        assert array[0, 0] == 77
    finally:
        if not unlinked:
            memory.unlink()


def memfd():
    return os.fdopen(os.memfd_create("samemap-test"), "r+b")


def o_tmpfile():
    flags = os.O_TMPFILE | os.O_RDWR
    return os.fdopen(os.open(tempfile.gettempdir(), flags, 0o600), "r+b")


@pytest.mark.needs_descriptors
@pytest.mark.parametrize(
    "make",
    [tempfile.TemporaryFile, memfd, o_tmpfile],
)
def test_files_without_a_name(backend, make):
    """A file that never had a name is reached through the sender's descriptor."""
    with make() as file:
        file.write(bytes(16000))
        file.flush()
        array = np.memmap(file, np.int64, "r+")
    assert samemap.explain(array)["route"] == "descriptor"
    array[:] = np.arange(2000)
    arrives(backend, array[::-1], "(deleted)")
    send(backend, write_first, array)
    assert array[0] == 77


def test_pandas(backend, tmp_path):
    """The blocks of a DataFrame go by reference, inside its own pickle."""
    pandas = pytest.importorskip("pandas")
    array = np.memmap(tmp_path / "data", np.float64, "w+", shape=(500, 4))
    array[:] = np.arange(2000).reshape(500, 4)
    frame = pandas.DataFrame(array, columns=list("abcd"), copy=False)
    if not np.shares_memory(frame.to_numpy(), array):
        pytest.skip("this pandas copies the array")
    assert len(samemap.dumps(frame)) < 1100
    copy = send(backend, pandas.DataFrame.copy, frame)
    pandas.testing.assert_frame_equal(copy, frame)
    assert same_file(array, samemap.loads(samemap.dumps(frame)).to_numpy())


@pytest.mark.parametrize(
    "part",
    [lambda f: f.iloc[::2], lambda f: f.iloc[:, 1:3], lambda f: f.iloc[::-1, ::2]],
)
def test_pandas_parts(tmp_path, part):
    """pandas itself would copy blocks that are not contiguous."""
    pandas = pytest.importorskip("pandas")
    array = np.memmap(tmp_path / "data", np.float64, "w+", shape=(500, 4))
    array[:] = np.arange(2000).reshape(500, 4)
    frame = part(pandas.DataFrame(array, columns=list("abcd"), copy=False))
    if not np.shares_memory(frame.to_numpy(), array):
        pytest.skip("this pandas copies the array")
    assert len(samemap.dumps(frame)) < 1100
    copy = samemap.loads(samemap.dumps(frame))
    pandas.testing.assert_frame_equal(copy, frame)
    assert not np.shares_memory(copy.to_numpy(), array)
    array += 1
    pandas.testing.assert_frame_equal(copy, frame)
    in_memory = part(pandas.DataFrame(np.array(array)))
    pandas.testing.assert_frame_equal(
        samemap.loads(samemap.dumps(in_memory)), in_memory
    )


def test_scipy_sparse(backend, tmp_path):
    """The three arrays of a sparse matrix go by reference."""
    sparse = pytest.importorskip("scipy.sparse")
    full = sparse.random(100, 100, 0.1, format="csr", random_state=0)
    parts = []
    for name in ("data", "indices", "indptr"):
        part = getattr(full, name)
        mapped = np.memmap(tmp_path / name, part.dtype, "w+", shape=part.shape)
        mapped[:] = part
        parts.append(mapped)
    matrix = sparse.csr_matrix(tuple(parts), shape=full.shape, copy=False)
    assert len(samemap.dumps(matrix)) < 1000
    assert abs(send(backend, abs, matrix) - abs(full)).nnz == 0
    copy = samemap.loads(samemap.dumps(matrix))
    for name, part in zip(("data", "indices", "indptr"), parts, strict=True):
        assert same_file(part, getattr(copy, name))


def test_dlpack(tmp_path):
    """DLPack: the owner is a capsule, which can't be referenced weakly."""
    array = np.memmap(tmp_path / "data", np.float64, "w+", shape=(100,))
    views = [np.from_dlpack(np.asarray(array))[i:] for i in range(3)]
    assert all(samemap.explain(view)["by_reference"] for view in views)
    for copy, view in zip(samemap.loads(samemap.dumps(views)), views, strict=True):
        assert copy.shape == view.shape
        assert same_file(array[-len(view) :], copy)


class Tagged(np.ndarray):
    """A user's subclass with something of its own."""

    def __array_finalize__(self, obj):
        self.tag = getattr(obj, "tag", None)


samemap.register(Tagged)


class TaggedMap(np.memmap):
    """A subclass of np.memmap, likewise."""

    def __array_finalize__(self, obj):
        super().__array_finalize__(obj)
        self.tag = getattr(obj, "tag", None)


samemap.register(TaggedMap)


def test_registered_memmap(backend, tmp_path):
    """A subclass of np.memmap keeps what np.memmap keeps, and its own."""
    array = TaggedMap(tmp_path / "data", np.float64, "w+", shape=(4, 3))
    array[:] = 5
    array.tag = "own"
    view = array.T[::-1]
    assert send(backend, kind_and_tag, view) == kind_and_tag(view)
    copy = samemap.loads(samemap.dumps(view))
    assert same_file(view, copy)
    assert (copy.filename, copy.offset, copy.mode) == (array.filename, 0, "r+")
    copy.flush()


def kind_and_tag(array):
    return type(array), array.tag, array.tolist()


@pytest.mark.needs_pagemap
def test_registered_subclass(backend, tmp_path):
    """A registered class keeps type, mapping and `__dict__`."""
    array = np.memmap(tmp_path / "data", np.float64, "w+", shape=(4, 3)).view(Tagged)
    array.tag = {"unit": "m"}
    assert len(samemap.dumps(array)) < 500
    result = send(backend, kind_and_tag, array.T)
    assert result == (Tagged, {"unit": "m"}, array.T.tolist())
    assert same_file(array, samemap.loads(samemap.dumps(array)))
    inside = np.arange(3.0).view(Tagged)
    inside.tag = 5
    assert samemap.loads(samemap.dumps(inside)).tolist() == [0, 1, 2]


def test_register_refuses_others():
    """Only subclasses of ndarray can be registered."""
    with pytest.raises(TypeError, match="subclass"):
        samemap.register(int)


def test_recarray_and_matrix(backend, tmp_path):
    """recarray (dtype and attributes) and matrix keep type and mapping."""
    dtype = np.dtype([("a", "<f8"), ("b", "i1")])
    for plain, cls in (
        (np.memmap(tmp_path / "r", dtype, "w+", shape=(200,)), np.recarray),
        (np.memmap(tmp_path / "m", np.float64, "w+", shape=(20, 30)), np.matrix),
    ):
        array = plain.view(cls)[::-1]
        arrives(backend, array, plain.filename)
        copy = samemap.loads(samemap.dumps(array))
        assert type(copy) is cls
        assert copy.strides == array.strides
        assert (copy.dtype, copy.dtype.type) == (array.dtype, array.dtype.type)
        assert same_file(array, copy)


@pytest.mark.parametrize("mask", [None, "memory", "mapped"])
@pytest.mark.parametrize("hard", [False, True])
def test_masked_array(tmp_path, mask, hard):
    """Data, mask, fill value and hard mask arrive; what is mapped isn't copied."""
    data = np.memmap(tmp_path / "data", np.float64, "w+", shape=(10, 6))
    flags = np.ma.nomask
    if mask == "memory":
        flags = np.arange(60).reshape(10, 6) % 7 == 0
    elif mask == "mapped":
        flags = np.memmap(tmp_path / "mask", np.bool_, "w+", shape=(10, 6))
        flags[2] = True
    array = np.ma.MaskedArray(data, flags, fill_value=-5, hard_mask=hard, copy=False).T
    copy = samemap.loads(samemap.dumps(array))
    assert type(copy) is np.ma.MaskedArray
    assert type(copy.data) is type(array.data)
    assert (copy.fill_value, copy.hardmask) == (-5, hard)
    assert copy.data.strides == array.data.strides
    assert (copy.mask is np.ma.nomask) is (mask is None)
    np.testing.assert_array_equal(np.ma.getmaskarray(copy), np.ma.getmaskarray(array))
    assert same_file(data.T, copy.data)
    if mask == "mapped":
        assert same_file(flags.T, copy.mask)


def test_nothing_of_numpys_asks_the_system(monkeypatch):
    """Memory that NumPy or Python owns needs no map table: it may be missing."""
    samemap._core.set_map_table("ioctl")
    try:
        before = set(os.listdir("/proc/self/fd"))
        samemap.dumps([np.arange(10), np.arange(20)[::-1].reshape(4, 5).T])
        samemap.dumps([np.frombuffer(kind(80), "u1") for kind in (bytes, bytearray)])
        assert set(os.listdir("/proc/self/fd")) == before
    finally:
        samemap._core.set_map_table("auto")


@pytest.mark.needs_maps
def test_recarray_is_one_class(make_file):
    """NumPy loads numpy.rec late; the worker's class is that of the table."""
    source = """
        import sys
        import numpy as np, samemap
        from joblib import Parallel, delayed

        def records(path):
            return np.memmap(path, [("x", "u1")], "r").view(np.recarray)

        if __name__ == "__main__":
            [result] = Parallel(n_jobs=2)([delayed(records)(sys.argv[1])])
            print(type(result) is np.recarray, samemap.explain(result)["by_reference"])
    """
    assert run_script(source, make_file("a", 1)) == "True True\n"
