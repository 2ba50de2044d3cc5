"""dask on one machine: views of a memmap reach its workers as they are.

joblib's dask backend needs nothing but the import of samemap; `samemap.dask.install` is
for `submit` and `scatter`. Tasks may write to what they get: that is their own.

Output::

    joblib   memmap, strides (-8, 800): the sums are right
    submit   memmap, strides (-8, 800): the sum is right
    scatter  memmap, strides (-8, 800): the sum is right
    the file is as it was
"""

import tempfile
from pathlib import Path
from typing import Any

import dask
import numpy as np
import samemap.dask
from dask.distributed import Client, LocalCluster
from joblib import Parallel, delayed, parallel_config

Array = np.ndarray[Any, np.dtype[Any]]


def add_one(array: Array) -> tuple[str, float]:
    array += 1
    return f"{type(array).__name__}, strides {array.strides}", float(array.sum())


def show(path: Path, client: Client) -> None:
    data = np.memmap(path, np.float64, "w+", shape=(100, 100))
    data[:] = np.arange(10_000.0).reshape(100, 100)
    view = data.T[::-1]
    expected = float(view.sum()) + view.size

    with parallel_config(backend="dask"):
        results = Parallel()(delayed(add_one)(view) for _ in range(4))
    assert [total for _, total in results] == [expected] * 4
    print(f"joblib   {results[0][0]}: the sums are right")

    samemap.dask.install(client)
    for name, argument in (("submit", view), ("scatter", client.scatter(view))):
        layout, total = client.submit(add_one, argument, pure=False).result()
        assert total == expected
        print(f"{name:<8} {layout}: the sum is right")
    samemap.dask.uninstall()

    assert data[0, 0] == 0
    assert data[99, 99] == 9999
    print("the file is as it was")


def main() -> None:
    with (
        tempfile.TemporaryDirectory() as folder,
        dask.config.set({"temporary-directory": folder}),
        LocalCluster(2, threads_per_worker=1, dashboard_address=None) as cluster,
        Client(cluster) as client,
    ):
        show(Path(folder, "data"), client)


if __name__ == "__main__":
    main()
