"""joblib's backends that others provide: changed when joblib registers them.

Nothing of an engine is imported before that. joblib registers dask's when a program
asks for it by its name; Ray's is registered by Ray, and looked for when a pool is made.
"""

from __future__ import annotations

import functools
import importlib.util
import warnings
from collections.abc import Callable
from typing import Any

import joblib.parallel

from ._errors import SamemapError

# The module that changes the class of a backend, by its name in joblib.
_MODULES = {"dask": "samemap.dask._backend", "ray": "samemap.ray._backend"}

# Those that joblib doesn't register by itself.
_REGISTERED_BY_OTHERS = ("ray",)

_stock: dict[str, Callable[[], Any]] = {}
_changed: list[Any] = []

# What is imported for a backend. joblib registers dask's without it, too: that raises
# joblib's own error when it is used.
_LIBRARIES = {"dask": "distributed", "ray": "ray"}


def _change(name: str) -> None:
    """Change the class of a backend, if joblib has it and its library is there."""
    backend = joblib.parallel.BACKENDS.get(name)
    if backend is None or importlib.util.find_spec(_LIBRARIES[name]) is None:
        return
    try:
        module = importlib.import_module(_MODULES[name])
        module.put_in(backend)
    except SamemapError as error:
        warnings.warn(
            f"joblib's backend {name!r} goes its own way, without samemap: {error}",
            RuntimeWarning,
            stacklevel=4,
        )
    else:
        if module not in _changed:
            _changed.append(module)


def _make_register(name: str, stock: Callable[[], Any]) -> Callable[[], Any]:
    @functools.wraps(stock)
    def register() -> Any:
        result = stock()
        _change(name)
        return result

    return register


def put_in() -> None:
    """Change what is registered, and what is going to be."""
    backends = getattr(joblib.parallel, "EXTERNAL_BACKENDS", {})
    for name in _MODULES:
        if name in backends and name not in _stock:
            _stock[name] = backends[name]
            backends[name] = _make_register(name, _stock[name])
        _change(name)


def look() -> None:
    """Change what others have registered since; called when a pool is made."""
    for name in _REGISTERED_BY_OTHERS:
        if name in joblib.parallel.BACKENDS:
            _change(name)


def take_out() -> None:
    """Give joblib back its own."""
    while _stock:
        name, stock = _stock.popitem()
        joblib.parallel.EXTERNAL_BACKENDS[name] = stock
    while _changed:
        _changed.pop().take_out()
