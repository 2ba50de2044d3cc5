"""Programs that work with joblib alone, and so have to with samemap.

Each takes the name of a pool and a folder; it prints "right" at its end, and says
what is wrong instead. What would crash is to be run in an interpreter of its own.
"""

import mmap
import multiprocessing.shared_memory
import os
import tempfile
import weakref
from pathlib import Path

import numpy as np
import samemap  # noqa: F401  (the import installs)
from joblib import Parallel, delayed

COUNT = 5000
STARTS = range(0, COUNT, 1000)
VALUES = np.arange(COUNT)


def identity(array):
    return array


def rest(array):
    return array[10:]


def there_and_back(backend, array):
    """Send parts of an array, get most of each back."""
    tasks = [delayed(rest)(array[start:]) for start in STARTS]
    return Parallel(2, backend, max_nbytes=4096)(tasks)


def check(results, values=VALUES):
    for result, start in zip(results, STARTS, strict=True):
        assert np.array_equal(result, values[start:][10:]), "other values"
    print("right")


def raw_file(folder):
    path = Path(folder, "numbers")
    VALUES.tofile(path)
    return path


def close_memmap(backend, folder, mode="r+"):
    """The caller closes the map of a memmap; the results are maps of their own."""
    array = np.memmap(raw_file(folder), VALUES.dtype, mode)
    results = there_and_back(backend, array)
    array._mmap.close()
    check(results)


def close_private_memmap(backend, folder):
    close_memmap(backend, folder, "c")


def close_mmap(backend, folder):
    """The caller closes an mmap that arrays lay on."""
    with raw_file(folder).open("r+b") as file:
        whole = mmap.mmap(file.fileno(), 0)
    results = there_and_back(backend, np.frombuffer(whole, VALUES.dtype))
    whole.close()
    check(results)


def close_mmap_under_its_array(backend, folder):
    """The caller closes an mmap while there are arrays, which it will not use."""
    with raw_file(folder).open("r+b") as file:
        whole = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    array = np.ndarray((COUNT,), VALUES.dtype, whole)
    results = there_and_back(backend, array)
    whole.close()
    check(results)


def close_shared_memory(backend, folder):
    """The caller closes and unlinks its shared memory."""
    memory = multiprocessing.shared_memory.SharedMemory(create=True, size=8 * COUNT)
    array = np.ndarray((COUNT,), VALUES.dtype, memory.buf)
    array[:] = VALUES
    results = there_and_back(backend, array)
    del array
    memory.close()
    memory.unlink()
    check(results)


def close_las(backend, folder):
    """laspy's context manager closes the map of a point cloud."""
    import laspy

    path = Path(folder, "points.las")
    cloud = laspy.LasData(laspy.LasHeader(point_format=0, version="1.2"))
    cloud.x = cloud.y = cloud.z = np.arange(float(COUNT))
    cloud.intensity = VALUES
    cloud.write(path)
    with laspy.mmap(path) as cloud:
        results = there_and_back(backend, cloud.points.array["intensity"])
        del cloud
    check(results)


def close_netcdf(backend, folder):
    """scipy's netcdf_file closes its map when no array lies on it any more."""
    import warnings

    from scipy.io import netcdf_file

    path = Path(folder, "numbers.nc")
    with netcdf_file(path, "w") as file:
        file.createDimension("x", COUNT)
        file.createVariable("numbers", "i4", ("x",))[:] = VALUES
    file = netcdf_file(path, "r", mmap=True)
    results = there_and_back(backend, file.variables["numbers"].data)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        file.close()
    check(results)


def map_feather(path, values):
    import pyarrow
    from pyarrow import feather

    table = pyarrow.table({"numbers": values})
    feather.write_feather(table, path, compression="uncompressed")
    column = feather.read_table(path, memory_map=True)["numbers"]
    return column.chunk(0).to_numpy(zero_copy_only=True)


def map_fits(path, values):
    from astropy.io import fits

    fits.PrimaryHDU(values).writeto(path, overwrite=True)
    return fits.open(path)[0].data


def map_fits_table(path, values):
    from astropy.io import fits

    column = fits.Column("numbers", "K", array=values)
    fits.BinTableHDU.from_columns([column]).writeto(path, overwrite=True)
    return fits.open(path)[1].data["numbers"]


def map_plainly(path, values):
    values.tofile(path)
    with open(path, "r+b") as file:
        return np.frombuffer(mmap.mmap(file.fileno(), 0), values.dtype)


def map_npy_privately(path, values):
    np.asarray(values).tofile(path)
    with open(path, "rb") as file:
        return np.frombuffer(
            mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY), values.dtype
        )


MAPS = {
    "feather": map_feather,
    "fits": map_fits,
    "fits table": map_fits_table,
    "mmap": map_plainly,
    "private mmap": map_npy_privately,
}


def through_scratch_file(folder, how, count):
    """As a task: write a table, map it with the library, return it.

    The scratch file is one a process; the next task overwrites it.
    """
    path = os.path.join(folder, f"scratch-{os.getpid()}")
    return MAPS[how](path, np.arange(count) + count)


def scratch_file(backend, folder, how):
    """Each task's table is its own, though all went through one file that shrinks."""
    counts = range(20_000, 0, -1000)
    tasks = [delayed(through_scratch_file)(folder, how, count) for count in counts]
    results = Parallel(2, backend, batch_size=1)(tasks)
    for result, count in zip(results, counts, strict=True):
        assert np.array_equal(result, np.arange(count) + count), "other values"
    print("right")


def mapped_until_it_dies(folder, value):
    """As a task: an array on a file that is removed with it."""
    number, path = tempfile.mkstemp(dir=folder)
    os.write(number, np.full(COUNT, value).tobytes())
    whole = mmap.mmap(number, 0)
    os.close(number)
    weakref.finalize(whole, os.unlink, path)
    return np.frombuffer(whole, int)


def removed_file(backend, folder):
    """A result outlives the file that the worker removes when its array dies."""
    tasks = [delayed(mapped_until_it_dies)(folder, value) for value in range(8)]
    results = Parallel(2, backend)(tasks)
    for value, result in enumerate(results):
        assert np.array_equal(result, np.full(COUNT, value)), "other values"
    print("right")


BUFFERS = {}


def refill(folder, kind, value):
    """As a task: fill the one buffer of this process and return it."""
    if kind not in BUFFERS:
        if kind == "anonymous":
            whole = mmap.mmap(-1, 8 * COUNT)
        elif kind == "memfd":
            number = os.memfd_create("buffer")
            os.truncate(number, 8 * COUNT)
            whole = mmap.mmap(number, 0)
        else:
            path = os.path.join(folder, f"buffer-{os.getpid()}")
            with open(path, "w+b") as file:
                file.truncate(8 * COUNT)
                whole = mmap.mmap(file.fileno(), 0)
        BUFFERS[kind] = np.frombuffer(whole, int)
    BUFFERS[kind][:] = value
    return BUFFERS[kind][10:]


def refilled_by_the_worker(backend, folder, kind):
    """A buffer that a worker uses again and again: each result as it was."""
    tasks = [delayed(refill)(folder, kind, value) for value in range(20)]
    results = Parallel(2, backend, batch_size=1)(tasks)
    assert [set(result.tolist()) for result in results] == [{i} for i in range(20)]
    for result in results:
        result += 1
    assert [set(result.tolist()) for result in results] == [{i + 1} for i in range(20)]
    print("right")
