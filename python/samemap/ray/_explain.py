"""What `samemap.explain` tells of Ray."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np

from .._explain import Explanation, explain_for_engine
from . import _audience, _messages, installed, writes_through


def explain(array: np.ndarray[Any, np.dtype[Any]]) -> Explanation:
    """Tell of an argument of a remote function."""
    result = explain_for_engine(
        array,
        "ray",
        installed=installed(),
        write_through=writes_through(),
        export_min=-1,
        protocol=_messages.PROTOCOL,
        lasting=True,
    )
    nodes = result["workers"] = _audience.nodes_that_see()
    blind = sorted(node for node, sees in nodes.items() if not sees)
    if blind and result["by_reference"]:
        shared = result["writes"] == "shared"
        result |= {
            "by_reference": False,
            "reason": "unreachable",
            "why": f"not every node sees the file: {', '.join(blind)} may not",
            "route": "",
            "writes": "none" if shared else "task",
            "message_nbytes": len(pickle.dumps(array, _messages.PROTOCOL)),
        }
    return result
