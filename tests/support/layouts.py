"""The layouts that must arrive, each named by the expression that makes it.

`VIEWS` are views of flat memory, whoever owns it (`OWNERS`). `FILES` are ways to
open a file, `PRIVATE` those whose pages nobody else sees.
"""

import atexit
import mmap
import os
import tempfile
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path

import joblib
import numpy as np
from numpy.lib.format import open_memmap  # noqa: F401  (in expressions)
from numpy.lib.stride_tricks import as_strided, sliding_window_view  # noqa: F401

NBYTES = 24000
NDIM_MAX = 64 if np.lib.NumpyVersion(np.__version__) >= "2.0.0" else 32

PACKED = np.dtype([("a", "i1"), ("b", ">f8"), ("c", "S3"), ("d", "U2")])
ALIGNED = np.dtype([("a", "i1"), ("b", "f8"), ("c", "i2")], align=True)
NESTED = np.dtype([("grid", "f4", (2, 3)), ("inner", [("x", "i2"), ("y", ">c8")])])
OVERLAPPING = np.dtype(
    {"names": ["a", "b"], "formats": ["f8", "i2"], "offsets": [0, 3], "itemsize": 15}
)
TITLED = np.dtype([(("a title", "a"), "i4"), (("other", "b"), "f4")])
METADATA = np.dtype("f8", metadata={"unit": "K"})

VIEWS = [
    # Orders and axes
    "m",
    "cube",
    "fortran",
    "cube.T",
    "fortran.T",
    "cube[1:3].T",
    "fortran[:, 1:4]",
    "cube.swapaxes(0, 2)",
    "np.moveaxis(cube, 0, -1)",
    "cube.transpose(1, 2, 0)",
    "np.rot90(cube)",
    "m.reshape(50, 60)",
    "m.reshape((50, 60), order='F')",
    "cube.T.reshape((30, 4), order='F')",
    "cube.ravel()",
    "cube.T.ravel(order='K')",
    "np.squeeze(cube[:1])",
    # Slices
    "m[3:99]",
    "m[::-1]",
    "m[::-7]",
    "cube[::-1]",
    "cube[:, ::-1]",
    "cube[..., ::-2]",
    "cube[::-1, ::-1, ::-1]",
    "cube[1::2, ::3, 4:0:-3]",
    "fortran[::-2, ::-1].T",
    "np.flip(cube, (0, 2))",
    "np.split(cube, 2)[1]",
    # Axes of length one, single items, nothing
    "cube[None]",
    "cube[:, None, ::-1, None]",
    "cube[2, 3, 4, ...]",
    "m[7:8].reshape(())",
    "np.ndarray((3,), [], flat)",
    "m[-1:]",
    "cube[3:, 4:, 5:]",
    "cube[:, 1:2]",
    "m[:0]",
    "m[3000:]",
    "cube[:, :0, ::-1].T",
    "cube[::-1][2:2]",
    # Broadcasting and windows
    "np.broadcast_to(cube, (3, 4, 5, 6))",
    "np.broadcast_to(cube[:, :1], (4, 5, 6), subok=True)",
    "np.broadcast_to(m[3, ...], (4, 5))",
    "np.broadcast_to(m[:6], (0, 6))",
    "np.broadcast_arrays(cube[:, :1], cube)[0]",
    "np.broadcast_arrays(cube[:, :1], cube)[1]",
    "sliding_window_view(m[:99], 7)",
    "sliding_window_view(cube, (2, 3), axis=(0, 2))[::-1]",
    "sliding_window_view(m[:99], 7, writeable=True)",
    "sliding_window_view(m[:99], 7, subok=True)",
    "cube.diagonal()",
    "cube.diagonal(1, 0, 2)",
    "np.einsum('ii->i', m[:36].reshape(6, 6))",
    # as_strided: overlaps, strides off the items, strides that don't count
    "as_strided(m, (5, 6), (8, 16))",
    "as_strided(m[60::-1], (4, 4), (-8, -24))",
    "as_strided(m, (4,), (12,))",
    "as_strided(m, (3,), (0,))",
    "as_strided(m, (2, 3), (24, 8), writeable=False)",
    "as_strided(m, (2, 3), (24, 8), subok=True)",
    "as_strided(m, (1, 5), (10**15, 8))",
    "as_strided(m, (5, 1), (8, -(10**15)))",
    "as_strided(m, (0, 3), (10**15, -(10**15)))",
    # Many axes
    "m[:2].reshape((1,) * 31 + (2,))",
    "m[:1].reshape((1,) * NDIM_MAX)",
    "as_strided(m, (2,) * 8 + (1,) * (NDIM_MAX - 8), (8,) * NDIM_MAX)",
    # Other readings of the same bytes
    "m.view('c16').real",
    "m.view('c16')[::-1].imag",
    "cube[::-1].view('i8')",
    "cube.view('u1')",
    "m.view('f4')[1::2]",
    "m.view(m.dtype.newbyteorder())",
    "flat[3:83].view('f8')",
    "flat[1:].view('V1')[::-3]",
    "np.ndarray((3, 4), '>i2', m, 6, (2, 8))",
    "np.frombuffer(m, 'i4', 10, 12)",
    "np.asarray(memoryview(m)[::3])",
    "np.frombuffer(memoryview(m).toreadonly())",
    # Records
    "records(PACKED)",
    "records(PACKED)['b']",
    "records(PACKED)['b'][::-1]",
    "records(PACKED)[-1:]['d']",
    "records(PACKED)[['a', 'c']]",
    "records(PACKED)[3, ...]",
    "records(ALIGNED)[::-2]",
    "records(ALIGNED)['b']",
    "records(ALIGNED).reshape(4, 6).T['c']",
    "records(NESTED)['grid']",
    "records(NESTED)['grid'][:, ::-1, 1]",
    "records(NESTED)['inner']['y']",
    "records(NESTED)['inner']['y'].imag",
    "records(OVERLAPPING)[['b']]",
    "records(OVERLAPPING)['b']",
    "records(TITLED)",
    "records(np.dtype((np.record, ALIGNED)))",
    # Types, flags and bases
    "np.asarray(m)",
    "np.asarray(cube)[::-1].T",
    "np.asarray(m).view(np.memmap)",
    "m[10:][::2][3:][::-1]",
    "with_flags(m[:], write=False)",
    "with_flags(cube.T, write=False)",
    "with_flags(m[:], align=False)",
]

# Every type without objects, in both byte orders. A long long ("q") in the other
# order is left out: NumPy's own pickle makes an equal type, a long, of it.
UNITS = {"M": "8[ns]", "m": "8[25s]", "S": "5", "U": "3", "V": "7"}
CODES = [c + UNITS.get(c, "") for c in np.typecodes["All"] if c not in "Oc"]
VIEWS += [f"records({code!r})[::-1]" for code in [*CODES, "c", "M", "m"]]
VIEWS += [
    f"records(np.dtype({code!r}).newbyteorder())"
    for code in CODES
    if code not in "qQ" and np.dtype(code).newbyteorder() != np.dtype(code)
]
VIEWS += [
    "records(METADATA)",
    "records(METADATA.newbyteorder())[::2]",
    "records([('a', METADATA), ('b', 'i2')])",
    "records([('a', METADATA), ('b', 'i2')])['a']",
]

FILES = [
    "np.memmap(path, 'f8', 'r')",
    "np.memmap(path, 'f8', 'r+')",
    "np.memmap(path, 'f8', 'r', shape=(20, 150))[::-1].T",
    "np.memmap(path, 'f8', 'r+', shape=(20, 150), order='F')",
    "np.memmap(path, 'f8', 'r+', shape=(20, 150), order='F')[3:9].T",
    "filled(np.memmap(path, 'f8', 'w+', shape=(20, 15)))",
    "filled(np.memmap(path, 'f8', 'w+', shape=(20, 15), order='F'))[:, ::-1]",
    "np.asarray(np.memmap(path, 'f8', 'r'))",
    "np.asarray(np.memmap(path, 'f8', 'r')).view(np.memmap)[::-1]",
    # Offsets
    "np.memmap(path, 'f8', 'r+', offset=13, shape=(7,))",
    "np.memmap(path, '>i2', 'r', offset=mmap.PAGESIZE + 5, shape=(4, 7))[::-1].T",
    "np.memmap(path, 'u1', 'r+', offset=NBYTES - 1)",
    "beyond_4_gib(path)",
    "long_strides(path)",
    "long_strides(path)[::-1]",
    # Names of the file
    "np.memmap(str(path), 'f8', 'r')",
    "np.memmap(path.open('rb'), 'f8', 'r')",
    "np.memmap(path.open('r+b'), 'f8', 'r+')[::-1]",
    "temporary()",
    "temporary()[::-1]",
    # Files of arrays
    "np.load(saved(path, cube), mmap_mode='r')",
    "np.load(saved(path, cube), mmap_mode='r+')[::-1]",
    "np.load(saved(path, np.asfortranarray(cube)), mmap_mode='r').T",
    "np.load(saved(path, cube[3, 4, 5]), mmap_mode='r')",
    "filled(open_memmap(path, 'w+', 'f4', (4, 5)))",
    "filled(open_memmap(path, 'w+', 'f4', (4, 5), fortran_order=True))[1:]",
    "dumped(path, mmap_mode='r')[0]",
    "dumped(path, mmap_mode='r')[1]",
    "dumped(path, mmap_mode='r+')[2][::-1]",
    # Maps without an np.memmap
    "np.frombuffer(mapped(path), 'f8')[::-1]",
    "np.frombuffer(mapped(path, access=mmap.ACCESS_READ), 'f8')",
    "np.frombuffer(mapped(path, offset=mmap.PAGESIZE), 'f8', 9, 3)",
    "np.ndarray((3, 4), 'i4', mapped(path), 60, (-20, 4))",
]

PRIVATE = [
    "np.memmap(path, 'f8', 'c')",
    "np.memmap(path, 'f8', 'c', shape=(20, 150))[::-1].T",
    "np.load(saved(path, cube), mmap_mode='c')[:, ::-1]",
    "np.frombuffer(mapped(path, access=mmap.ACCESS_COPY), 'f8')",
    "np.frombuffer(mapped(path, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ), 'f8')",
    "filled(np.memmap(path, 'f8', 'c', shape=(20, 15)))",
    "filled(np.memmap(path, 'f8', 'c', shape=(20, 15)))[::-1].T",
    "half_filled(np.memmap(path, 'f8', 'c'))",
]


def random_bytes():
    """Return `NBYTES` bytes of which every range is different."""
    return np.random.default_rng(0).bytes(NBYTES)


def view(flat, expression):
    """Evaluate one of `VIEWS` on flat memory of `NBYTES` bytes."""

    def records(dtype, count=24):
        return flat[: count * np.dtype(dtype).itemsize].view(dtype)

    m = flat.view("f8")
    names = {
        "flat": flat,
        "m": m,
        "cube": m[:120].reshape(4, 5, 6),
        "fortran": m[:120].reshape((4, 5, 6), order="F"),
        "records": records,
    }
    return eval(expression, globals(), names)


def open_file(directory, expression):
    """Evaluate one of `FILES` or `PRIVATE`, with a file of its own."""
    path = Path(tempfile.mkdtemp(dir=directory)) / "data"
    path.write_bytes(random_bytes())
    cube = filled(np.empty((4, 5, 6)))
    return eval(expression, globals(), {"path": path, "cube": cube})


# ---- Who owns the flat memory ------------------------------------------------


def by_memmap(path):
    return np.memmap(path, "u1", "r+")


def by_mmap(path):
    return np.frombuffer(mapped(path), "u1")


def by_shared_memory(path):
    """Shared memory is kept to the exit: it can't be closed under its arrays."""
    memory = SharedMemory(create=True, size=NBYTES)
    atexit.register(memory.unlink)
    memory.buf[:NBYTES] = path.read_bytes()
    return np.ndarray(NBYTES, "u1", memory.buf)


OWNERS = [by_memmap, by_mmap, by_shared_memory]


# ---- Tools of the expressions ------------------------------------------------


def mapped(path, **options):
    with path.open("r+b") as file:
        return mmap.mmap(file.fileno(), 0, **options)


def filled(array):
    array[...] = np.arange(array.size).reshape(array.shape)
    return array


def half_filled(array):
    filled(array[len(array) // 2 :])
    return array


def with_flags(array, **flags):
    array.setflags(**flags)
    return array


def saved(path, array):
    with path.open("wb") as file:
        np.save(file, array)
    return path


def dumped(path, mmap_mode):
    """Three arrays in one file of joblib."""
    cube = filled(np.empty((4, 5, 6)))
    joblib.dump([cube, np.asfortranarray(cube), cube.astype("i2")], path)
    return joblib.load(path, mmap_mode=mmap_mode)


def temporary():
    """A file that never had a name."""
    with tempfile.TemporaryFile() as file:
        return filled(np.memmap(file, "f8", "w+", shape=(10, 20)))


def beyond_4_gib(path):
    start = (4 << 30) + 123
    os.truncate(path, start + 1600)
    return filled(np.memmap(path, "f8", "r+", offset=start, shape=(10, 20)))


def long_strides(path):
    row_nbytes = (2 << 30) + 4096
    os.truncate(path, 3 * row_nbytes)
    rows = np.memmap(path, "u1", "r+", shape=(3, row_nbytes))
    return filled(rows[:, 5:9])
