"""What `samemap.explain` tells of dask."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
from distributed.client import _get_global_client

from .. import _remote, _sight
from .._explain import Explanation, explain_for_engine
from .._remote import Readers
from .._tables import make_engine_table
from . import _audience, _versions, _wire, installed, writes_through


def explain(array: np.ndarray[Any, np.dtype[Any]]) -> Explanation:
    """Tell of an argument of `submit` to the workers of the default client."""
    _versions.check()
    result = explain_for_engine(
        array,
        "dask",
        installed=installed(),
        write_through=writes_through(),
        export_min=-1,
        protocol=5,
        lasting=True,
    )
    here = _sight.here()
    readers, workers = Readers([here]), {}
    client = _get_global_client()
    if client is not None:
        audience = _audience.of(client)
        readers = audience.readers() or readers
        workers = audience.places()
    path = result["path"] if result.get("route") == "path" else None
    shared = result["writes"] == "shared"
    result["workers"] = {
        address: _can_read(here, place, path) for address, place in workers.items()
    }
    if not result["by_reference"]:
        return result
    table = make_engine_table(protocol=5, write_through=writes_through(), counted=False)
    message = _remote.write(array, table, readers)
    if message is not None:
        node = _wire.task(message)
        result["message_nbytes"] = len(pickle.dumps(node, 5))
        return result
    blind = sorted(a for a, sees in result["workers"].items() if not sees)
    why = f"not every worker sees the file: {', '.join(blind)} may not"
    copy = {"reason": "unreachable", "why": why, "by_reference": False, "route": ""}
    return _updated(result, copy | {"writes": "none" if shared else "task"}, array)


def _can_read(here: Any, place: Any, path: str | None) -> bool:
    if place is None or place.version != here.version:
        return False
    if place.token == here.token:
        return True
    return path is not None and _sight.sees(here, place, path)


def _updated(result: Explanation, others: dict[str, Any], array: Any) -> Explanation:
    result.update(others)
    result["message_nbytes"] = len(pickle.dumps(array, 5))
    return result
