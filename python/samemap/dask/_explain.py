"""What `samemap.explain` tells of dask."""

from __future__ import annotations

import pickle
from typing import Any

from distributed.client import _get_global_client

from .. import _remote, _sight
from .._remote import Readers
from .._tables import make_engine_table
from . import _audience, _versions, _wire, installed, writes_through


def tell(array: Any) -> dict[str, Any]:
    """Write an array as `submit` does, for the workers of the default client."""
    _versions.check()
    here = _sight.here()
    readers, workers = Readers([here]), {}
    client = _get_global_client()
    if client is not None:
        audience = _audience.of(client)
        readers = audience.readers() or readers
        workers = audience.places()
    table = make_engine_table(
        protocol=5, write_through=writes_through(), counted=False
    )
    alone = _remote.write(array, table, Readers([here]))
    message = _remote.write(array, table, readers)
    node = array if message is None else _wire.task(message)
    path = _remote.path_of(array)
    seen = {
        address: place is not None and path is not None
        and _sight.sees(here, place, path)
        for address, place in workers.items()
    }
    why = ""
    if alone is not None and message is None:
        blind = [address for address, sees in seen.items() if not sees]
        why = f"not every worker sees the file: {', '.join(sorted(blind))} may not"
    return {
        "by_reference_there": message is not None,
        "why_not": why,
        "write_through": writes_through(),
        "installed": installed(),
        "not_installed": "samemap.dask is not installed: dask goes its own way",
        "message_nbytes": len(pickle.dumps(node, 5)),
        "workers": seen,
    }
