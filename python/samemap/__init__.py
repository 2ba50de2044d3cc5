"""samemap: the same map in every worker.

``import samemap`` makes joblib send every array on mapped memory as a reference to
its file and its exact layout: the worker maps the same file and builds the same
view, without a copy. Set ``SAMEMAP=0`` in the environment to make the import install
nothing.
"""

from __future__ import annotations

import importlib
import os

from . import _core, _subclasses
from ._errors import (
    BackingError,
    BackingNotFoundError,
    BackingPermissionError,
    BackingReplacedError,
    BackingTruncatedError,
    LostWritesWarning,
    MessageVersionError,
    SamemapError,
    StrictError,
    UnsupportedEngineError,
    UnsupportedJoblibError,
    VerificationError,
)
from ._explain import Explanation, Statistics, explain, stats
from ._pickling import Pickler, dumps, loads
from ._shared import empty, share, zeros
from ._switch import disabled, enabled, install, installed, tables_changed, uninstall
from ._version import __version__

__all__ = [
    "BackingError",
    "BackingNotFoundError",
    "BackingPermissionError",
    "BackingReplacedError",
    "BackingTruncatedError",
    "Explanation",
    "LostWritesWarning",
    "MessageVersionError",
    "Pickler",
    "SamemapError",
    "Statistics",
    "StrictError",
    "UnsupportedEngineError",
    "UnsupportedJoblibError",
    "VerificationError",
    "__version__",
    "disabled",
    "dumps",
    "empty",
    "enabled",
    "explain",
    "install",
    "installed",
    "loads",
    "register",
    "share",
    "stats",
    "uninstall",
    "zeros",
]


# Modules that are imported when they are first asked for.
_ENGINES = frozenset(["dask", "pools", "ray", "torch"])


def __getattr__(name: str) -> object:
    if name in _ENGINES:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def register(cls: _subclasses.T) -> _subclasses.T:
    _subclasses.register(cls)
    tables_changed()
    return cls


register.__doc__ = _subclasses.register.__doc__

os.register_at_fork(after_in_child=_core._after_fork)

if os.environ.get("SAMEMAP", "1") != "0":
    install()
