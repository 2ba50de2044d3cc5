"""Arrays in ordinary memory arrive as they are when their message is written."""

import numpy as np
import pytest
from joblib import Parallel, delayed

pytestmark = [pytest.mark.needs_maps, pytest.mark.needs_descriptors]

N = 1_000_000  # float64: 8 MB


def total(array):
    return float(array.sum())


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
