"""What is relied on in dask, distributed and joblib, looked at before it is touched."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from .._errors import UnsupportedEngineError

SUPPORTED = "2025.4 and later"


def _unsupported(what: str, found: str) -> UnsupportedEngineError:
    return UnsupportedEngineError(
        f"samemap.dask works with dask and distributed {SUPPORTED}; {what}: {found}"
    )


def _has(owner: Any, name: str, arguments: tuple[str, ...] = ()) -> Callable[..., Any]:
    found = getattr(owner, name, None)
    label = f"{getattr(owner, '__module__', '')} {getattr(owner, '__name__', owner)}"
    if not callable(found):
        raise _unsupported(label, f"no {name}")
    if arguments:
        taken = set(inspect.signature(found).parameters)
        missing = set(arguments) - taken
        if missing:
            raise _unsupported(f"{label}.{name}", f"takes no {sorted(missing)}")
    return found  # type: ignore[no-any-return]


def check() -> None:
    """Look at all that is relied on.

    Raises
    ------
    UnsupportedEngineError
        If something isn't as expected, or dask or distributed is missing.
    """
    try:
        import dask
        import distributed
        from dask._expr import HLGExpr, LLGExpr
        from dask._task_spec import (
            Alias,
            DataNode,
            Task,
            convert_legacy_graph,
        )
        from dask.highlevelgraph import HighLevelGraph, MaterializedLayer
        from dask.sizeof import sizeof
        from distributed.protocol.serialize import (
            dask_deserialize,
            dask_serialize,
            families,
            pickle_dumps,
        )
        from distributed.worker import thread_state
    except ImportError as error:
        raise _unsupported("import", str(error)) from error
    client = distributed.Client
    _has(client, "_graph_to_futures", ("expr", "keys"))
    _has(client, "_gather_remote")
    _has(client, "_run", ("function", "workers", "on_error"))
    _has(client, "_run_on_scheduler", ("function",))
    _has(client, "subscribe_topic", ("topic", "handler"))
    _has(HLGExpr, "__dask_graph__")
    _has(LLGExpr, "__dask_annotations__")
    _has(Task, "get_all_slots")
    _has(Alias, "substitute")
    for dispatch in (dask_serialize, dask_deserialize, sizeof):
        if not isinstance(getattr(dispatch, "_lookup", None), dict):
            raise _unsupported("dask.utils.Dispatch", "no table")
    if families.get("pickle", (None,))[0] is None:
        raise _unsupported("distributed.protocol.serialize", "no family 'pickle'")
    if Task(None, eval, "1 + v", {"v": 1})() != 2:
        raise _unsupported(f"dask {dask.__version__}", "tasks are called otherwise")
    if DataNode("k", 1)() != 1:
        raise _unsupported(f"dask {dask.__version__}", "data is kept otherwise")
    del HighLevelGraph, MaterializedLayer, convert_legacy_graph, pickle_dumps
    del thread_state


def check_backend(backend: Any) -> None:
    """Look at joblib's class of dask's backend.

    Raises
    ------
    UnsupportedEngineError
    """
    submit = "submit" if hasattr(backend, "submit") else "apply_async"
    _has(backend, submit, ("func", "callback"))
    _has(backend, "_to_func_args", ("func",))
    _has(backend, "start_call")
    _has(backend, "retrieve_result_callback")
