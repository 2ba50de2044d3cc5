"""The two sides: joblib's reducers and samemap's, and their picklers."""

import io
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import joblib.pool
import samemap
from joblib.externals.loky.backend.reduction import get_loky_pickler

SIDES = ("joblib", "samemap")
Table = dict[type, Callable[[Any], Any]]


@contextmanager
def side(name: str) -> Iterator[None]:
    """Let `Parallel` use the reducers of one side.

    loky starts a new executor on every change: call `Parallel` once before timing.
    """
    with samemap.enabled() if name == "samemap" else samemap.disabled():
        yield


def in_turn(rounds: int) -> Iterator[str]:
    """Go to each side `rounds` times, in changing order, with its reducers in force."""
    for number in range(rounds):
        for name in SIDES[:: -1 if number % 2 else 1]:
            with side(name):
                yield name


def reducers(name: str, **options: Any) -> Table:
    """The reducers that a pool of one side gives to its pickler for tasks."""
    options.setdefault("temp_folder_resolver", tempfile.gettempdir)
    with side(name):
        table: Table = joblib.pool.get_memmapping_reducers(**options)[0]
    return table


def pool_dumps(obj: Any, table: Table) -> bytes:
    """Pickle as joblib's multiprocessing pool does."""
    file = io.BytesIO()
    joblib.pool.CustomizablePickler(file, table).dump(obj)
    return file.getvalue()


def loky_dumps(obj: Any, table: Table) -> bytes:
    """Pickle as joblib's loky executor does."""
    file = io.BytesIO()
    get_loky_pickler()(file, reducers=table).dump(obj)
    return file.getvalue()
