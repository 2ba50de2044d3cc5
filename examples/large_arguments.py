"""100 MB to many tasks, and 100 MB back, in ordinary memory.

Stock joblib saves an array above `max_nbytes` to a file, once: tasks can't write to it,
and within one `with Parallel()` block later calls see its first content. Large results
go through a pipe. With samemap the array is copied once into memory that each task maps
for itself: writeable, and what the array holds when it is sent. A result of 100 MB
comes back by memory file as well. Tasks that write to what is their own alone are told
of.

Output::

    8 tasks add 1 to 100 MB and return the first element
      stock joblib  ValueError: output array is read-only
      with samemap  [1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0]
    the same array, set to 7 before a second call
      stock joblib  [0.0, 0.0]
      with samemap  [7.0, 7.0]
    2 results
      100 MB, the sum of the elements is right, writeable
      100 MB, the sum of the elements is right, writeable
    LostWritesWarning: tasks have written to 8 of their argument arrays
"""

import warnings
from typing import Any

import numpy as np
import samemap
from joblib import Parallel, delayed

Array = np.ndarray[Any, np.dtype[Any]]

SIZE = 12_500_000  # of 8 bytes each


def add_one(array: Array) -> float:
    array += 1
    return float(array[0])


def first(array: Array) -> float:
    return float(array[0])


def count_from(start: int) -> Array:
    return np.arange(start, start + SIZE, dtype=np.float64)


def first_call() -> str:
    array = np.zeros(SIZE)
    try:
        return str(Parallel(n_jobs=2)(delayed(add_one)(array) for _ in range(8)))
    except ValueError as error:
        return f"ValueError: {error}"


def second_call() -> str:
    array = np.zeros(SIZE)
    with Parallel(n_jobs=2) as parallel:
        parallel(delayed(first)(array) for _ in range(2))
        array[:] = 7
        return str(parallel(delayed(first)(array) for _ in range(2)))


def compare(title: str, call: Any) -> None:
    print(title)
    with samemap.disabled():
        print(f"  stock joblib  {call()}")
    print(f"  with samemap  {call()}")


def main() -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", samemap.LostWritesWarning)
        compare("8 tasks add 1 to 100 MB and return the first element", first_call)
    compare("the same array, set to 7 before a second call", second_call)

    print("2 results")
    for i, result in enumerate(
        Parallel(n_jobs=2)(delayed(count_from)(i) for i in (0, 1))
    ):
        right = result.sum() == SIZE * (SIZE - 1) / 2 + i * SIZE
        print(
            f"  {result.nbytes // 10**6} MB, the sum of the elements is "
            f"{'right' if right else 'wrong'}, "
            f"{'writeable' if result.flags.writeable else 'read-only'}"
        )

    [warning] = caught
    what, _, _ = str(warning.message).partition(",")
    print(f"{warning.category.__name__}: {what}")


if __name__ == "__main__":
    main()
