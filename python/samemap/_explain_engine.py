"""How an array travels with an engine, where stock copies and messages last."""

from __future__ import annotations

import importlib
from typing import Any, Protocol

import numpy as np

from ._explain import Explanation, explain_memory

_WHY_NO_PATH = "no path leads to its memory, and this engine's messages outlive arrays"


class _Engine(Protocol):
    """What a module says of its engine."""

    def tell(self, array: Any) -> dict[str, Any]: ...


# The module that tells of an engine, by its name.
_MODULES = {"dask": "samemap.dask._explain"}


def explain_for(array: np.ndarray[Any, np.dtype[Any]], engine: str) -> Explanation:
    """Do the work of `samemap.explain` for an engine."""
    if engine not in _MODULES:
        raise ValueError(f"engine must be None or one of {[*_MODULES]}, not {engine!r}")
    module: _Engine = importlib.import_module(_MODULES[engine])  # type: ignore[assignment]
    result = explain_memory(array)
    told = module.tell(array)
    result |= told
    shared = result.get("writes") == "shared"
    if result["by_reference"] and not told["by_reference_there"]:
        result |= {"reason": "unreachable", "why": told["why_not"] or _WHY_NO_PATH}
        result |= {"by_reference": False, "route": "", "writes": "task"}
    elif result["by_reference"] and not shared:
        writable = told["write_through"] and result["sharing"] == "shared"
        result["writes"] = "file" if writable and result["map_writable"] else "task"
    elif not result["by_reference"]:
        result["writes"] = "task"
    for name in ("by_reference_there", "why_not", "write_through"):
        del result[name]
    return result
