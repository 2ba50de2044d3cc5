"""PyTorch: tensors on mapped memory reach workers as what they are.

`install` serves the workers of a `torch.utils.data.DataLoader` and whatever else is
sent by `torch.multiprocessing`. PyTorch is imported when it is called, not before.
"""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np

from ._core import describe
from ._errors import UnsupportedEngineError
from .pools import _messages, _patches

__all__ = ["install", "installed", "uninstall"]


def install(*, write_through: bool = False, memory: bool = True) -> None:
    """Make PyTorch send tensors and arrays on mapped memory as references.

    That is a tensor of `torch.from_numpy`, on an `np.memmap` or any other array on a
    mapped file, and each view of it, in the arguments of a process (a `DataLoader`
    sends its dataset so to workers that are spawned) and in the queues and pipes of
    `torch.multiprocessing`. Without it, PyTorch copies the tensor's whole storage into
    shared memory, and the sender's own tensor goes on there, off its file.

    Arrays are sent as by `samemap.pools.install`, of which the options are the same.

    Parameters
    ----------
    write_through : bool
        Let all processes write to every shared and writable map. Without it what a
        worker writes to a tensor on mapped memory is its own: neither the file nor the
        sender sees it.
    memory : bool
        As for `samemap.pools.install`. Tensors in ordinary memory go as PyTorch says.

    Raises
    ------
    ImportError
        If there is no PyTorch.
    UnsupportedEngineError
        If its internals, or those of the standard library's pools, are not as expected;
        nothing is touched then.

    Notes
    -----
    Left to PyTorch are tensors that require a gradient, that are shared already
    (`torch.Tensor.share_memory_`), of subclasses, on other devices, and on a file that
    no path leads to; and ``torch.save``, which writes data.
    """
    tensor = _check()
    _patches.add("torch", bool(write_through), bool(memory))
    _messages.overrides[tensor] = reduce_tensor


def uninstall() -> None:
    """Give back PyTorch's own way; harmless where it is in force.

    What `samemap.pools.install` has asked for stays.
    """
    for cls in [cls for cls in _messages.overrides if cls.__module__ == "torch"]:
        del _messages.overrides[cls]
    _patches.remove("torch")


def installed() -> bool:
    """Tell whether `install` is in force in this process.

    Returns
    -------
    bool
        True from `install` on, until `uninstall`.
    """
    return "torch" in _patches.asked()


def adopt() -> None:
    """In a new process: go on as the one that has started it."""
    _messages.overrides[_check()] = reduce_tensor


def _check() -> Any:
    """Return the class of tensors, if they are pickled as expected."""
    torch = importlib.import_module("torch")
    importlib.import_module("torch.multiprocessing")
    reductions = importlib.import_module("torch.multiprocessing.reductions")
    stock = getattr(reductions, "reduce_tensor", None)
    if stock is None or _messages.registered(torch.Tensor) is not stock:
        raise UnsupportedEngineError(
            f"samemap works with PyTorch 2; in PyTorch {torch.__version__} tensors are "
            "not pickled by torch.multiprocessing.reductions.reduce_tensor"
        )
    return torch.Tensor


def reduce_tensor(tensor: Any) -> Any:
    """Reduce a tensor: by its array if that goes by reference, else as PyTorch does."""
    array = _find_mapped(tensor)
    if array is None:
        return _messages.registered(type(tensor))(tensor)
    return rebuild_tensor, (array,)


def _find_mapped(tensor: Any) -> np.ndarray[Any, np.dtype[Any]] | None:
    """Return the array of a tensor that a path and a layout say all of."""
    if (
        tensor.device.type != "cpu"
        or tensor.layout is not importlib.import_module("torch").strided
        or tensor.requires_grad
        or tensor.is_nested
        or tensor.is_shared()
        or tensor._backward_hooks
    ):
        return None
    try:
        array: np.ndarray[Any, np.dtype[Any]] = tensor.numpy()
    except (RuntimeError, TypeError):
        # Conjugated, negated, or of a type that NumPy hasn't.
        return None
    return array if describe(array).get("route") == "path" else None


def rebuild_tensor(array: np.ndarray[Any, np.dtype[Any]]) -> Any:
    """Undo `reduce_tensor`."""
    return importlib.import_module("torch").from_numpy(array)
