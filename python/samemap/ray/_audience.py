"""Who may read a message: which nodes a cluster has, and what they see.

Any worker may read what is put, and results go wherever they are asked for. So
arrays go by reference while all nodes see the files of this process. Each node is asked
once, with a task.
"""

from __future__ import annotations

import builtins
import threading
import time
from typing import Any

import ray
from ray._private import worker as ray_worker
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from .. import _remote
from .._remote import Readers

# What the cluster was asked for less long ago than this is taken for what is, in
# seconds.
_FRESH = 1.0

# A node that takes longer to answer, in seconds, is asked no more; what it says counts
# when it has come.
_PATIENCE = 30

# Of the function that asks nothing is imported where samemap is missing.
_PROBE = (
    "lambda: __import__('samemap').ray._probe() "
    "if __import__('importlib.util').util.find_spec('samemap') else None"
)

_lock = threading.RLock()
_asking = threading.local()

# By node: the parts of its `Place`, None for one that can't read messages.
_places: dict[str, Any] = {}
# Those that haven't answered.
_waiting: dict[str, Any] = {}

# Who looked, and when: a process that connects to another cluster is another worker.
_looked: tuple[Any, float] = (None, 0.0)
_all_here = False


def _is_fresh() -> bool:
    worker, when = _looked
    return (
        worker == ray_worker.global_worker.worker_id
        and time.monotonic() - when < _FRESH
    )


def mode() -> str:
    """Tell what this process is: "driver", "worker", or "" for neither."""
    found = ray_worker.global_worker.mode
    if found == ray_worker.SCRIPT_MODE:
        return "driver"
    return "worker" if found == ray_worker.WORKER_MODE else ""


def is_asking() -> bool:
    """Tell whether this thread is sending what asks a node."""
    return getattr(_asking, "now", False)


def is_all_here() -> bool:
    """Tell whether all that may read a message see the files of this process.

    In a driver every node is asked. A worker knows of its own node alone, whose
    raylet has started it.
    """
    global _looked, _all_here
    place = mode()
    if not place or is_asking():
        return False
    if _is_fresh():
        return _all_here
    with _lock:
        if not _is_fresh():
            nodes = _nodes()
            if place == "worker":
                _all_here = len(nodes) == 1
            else:
                _ask(nodes)
                _all_here = bool(nodes) and Readers(_places_of(nodes)).all_here
            _looked = ray_worker.global_worker.worker_id, time.monotonic()
    return _all_here


def forget() -> None:
    """Look at what nodes there are before the next message."""
    global _looked
    _looked = None, 0.0


def nodes_that_see() -> dict[str, bool]:
    """Tell of each node whether its workers may be sent a reference.

    Returns
    -------
    dict
        By the node's id; empty where this process is no driver.
    """
    if mode() != "driver":
        return {}
    is_all_here()
    with _lock:
        nodes = _nodes()
        seen = zip(nodes, _places_of(nodes), strict=True)
        return {node: Readers([place]).all_here for node, place in seen}


def _nodes() -> list[str]:
    return sorted(node["NodeID"] for node in ray.nodes() if node["Alive"])


def _places_of(nodes: list[str]) -> list[Any]:
    found = [_places.get(node) for node in nodes]
    return [None if parts is None else _remote.place_from(parts) for parts in found]


def _ask(nodes: list[str]) -> None:
    for known in (_places, _waiting):
        for node in known.keys() - nodes:
            del known[node]
    new = [node for node in nodes if node not in _places and node not in _waiting]
    _asking.now = True
    try:
        for node in new:
            _waiting[node] = _send(node)
        if _waiting:
            patience = _PATIENCE if new else 0
            refs = list(_waiting.values())
            ready, _ = ray.wait(refs, num_returns=len(refs), timeout=patience)
            for node, ref in list(_waiting.items()):
                if ref in ready:
                    del _waiting[node]
                    _places[node] = _answer(ref)
    finally:
        _asking.now = False


def _send(node: str) -> Any:
    # Of no module that a worker could import: it goes by value.
    names = {"__name__": "__main__", "__builtins__": builtins}
    probe = ray.remote(eval(_PROBE, names)).options(
        num_cpus=0,
        max_retries=0,
        scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False),
    )
    return probe.remote()


def _answer(ref: Any) -> Any:
    """Return what a node has told; of one that couldn't, that it reads no message."""
    try:
        return ray.get(ref)
    except ray.exceptions.RayError:
        return None
