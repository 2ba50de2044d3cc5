"""What can't lead to an array, as far as that is quick to see."""

from __future__ import annotations

import sys
import types
from typing import Any

import numpy as np
from dask._task_spec import Alias, TaskRef

# Nothing can be in these, and what is a name is nothing but that.
_PLAIN = frozenset(
    [
        *(type(None), bool, int, float, complex, str, bytes, bytearray),
        *(np.float64, np.int64, np.bool_, np.float32, np.int32, slice, np.dtype),
        *(types.BuiltinFunctionType, TaskRef, Alias, np.ufunc, range),
    ]
)


def is_plain(obj: Any) -> bool:
    """Tell whether an object can't lead to an array, as far as that is quick to see."""
    cls = type(obj)
    if cls in _PLAIN:
        return True
    if cls is types.FunctionType:
        # Pickled by its name, unless it has none or is of the program itself.
        module = sys.modules.get(obj.__module__)
        return (
            obj.__module__ != "__main__"
            and getattr(module, obj.__qualname__, None) is obj
        )
    if isinstance(obj, type):
        return obj.__module__ != "__main__"
    if cls in (list, tuple, set, frozenset):
        return len(obj) <= 16 and all(type(item) in _PLAIN for item in obj)
    if cls is dict:
        return len(obj) <= 16 and all(type(item) in _PLAIN for item in obj.values())
    return False
