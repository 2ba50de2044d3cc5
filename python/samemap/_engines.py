"""joblib's backends that others provide: changed when joblib registers them.

Nothing of an engine is imported before that: joblib does it when a program asks for the
backend by its name.
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
_MODULES = {"dask": "samemap.dask._backend"}

_stock: dict[str, Callable[[], Any]] = {}
_changed: list[Any] = []

# What is imported for a backend. joblib registers dask's without it, too: that raises
# joblib's own error when it is used.
_LIBRARIES = {"dask": "distributed"}


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


def take_out() -> None:
    """Give joblib back its own."""
    while _stock:
        name, stock = _stock.popitem()
        joblib.parallel.EXTERNAL_BACKENDS[name] = stock
    while _changed:
        _changed.pop().take_out()
