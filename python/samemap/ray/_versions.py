"""What is relied on in Ray and joblib, looked at before it is touched."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from .._errors import UnsupportedEngineError

SUPPORTED = "2.40 and later"


def _unsupported(what: str, found: str) -> UnsupportedEngineError:
    return UnsupportedEngineError(
        f"samemap.ray works with Ray {SUPPORTED}; {what}: {found}"
    )


def _has(owner: Any, name: str, arguments: tuple[str, ...] = ()) -> Callable[..., Any]:
    found = getattr(owner, name, None)
    label = f"{getattr(owner, '__module__', '')} {getattr(owner, '__name__', owner)}"
    if not callable(found):
        raise _unsupported(label, f"no {name}")
    if arguments:
        taken = list(inspect.signature(found).parameters)
        if tuple(taken[: len(arguments)]) != arguments:
            raise _unsupported(f"{label}.{name}", f"takes {taken}")
    return found  # type: ignore[no-any-return]


def check() -> None:
    """Look at all that is relied on.

    Raises
    ------
    UnsupportedEngineError
        If something isn't as expected, or Ray is missing.
    """
    try:
        import ray
        from ray._private import worker
        from ray._private.serialization import SerializationContext
        from ray._raylet import Pickle5SerializedObject, Pickle5Writer
        from ray.cloudpickle import CloudPickler
        from ray.exceptions import RayTaskError
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
    except (ImportError, AttributeError) as error:
        raise _unsupported("import", str(error)) from error
    _has(SerializationContext, "_serialize_to_msgpack", ("self", "value"))
    _has(SerializationContext, "_serialize_to_pickle5", ("self", "metadata", "value"))
    for name in (
        "set_in_band_serialization",
        "set_out_of_band_serialization",
        "get_and_clear_contained_object_refs",
    ):
        _has(SerializationContext, name, ("self",))
    _has(RayTaskError, "__init__", ("self", "function_name", "traceback_str", "cause"))
    _has(CloudPickler, "__init__", ("self", "file", "protocol", "buffer_callback"))
    maps = getattr(getattr(CloudPickler, "dispatch_table", None), "maps", None)
    if not isinstance(maps, list) or not isinstance(maps[0], dict):
        raise _unsupported("ray.cloudpickle", "reducers are kept otherwise")
    for name in ("SCRIPT_MODE", "WORKER_MODE", "global_worker"):
        if not hasattr(worker, name):
            raise _unsupported("ray._private.worker", f"no {name}")
    _has(ray, "nodes")
    del Pickle5SerializedObject, Pickle5Writer, NodeAffinitySchedulingStrategy


def check_backend(backend: Any) -> None:
    """Look at the class of joblib's backend.

    Raises
    ------
    UnsupportedEngineError
    """
    _has(backend, submit_of(backend), ("self", "func", "callback"))
    _has(backend, "start_call", ("self",))
    _has(backend, "retrieve_result_callback", ("self",))


def submit_of(backend: Any) -> str:
    """Return the name of the method that gets the batches."""
    return "submit" if hasattr(backend, "submit") else "apply_async"
