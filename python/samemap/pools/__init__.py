"""The standard library's pools and queues: the same map in every worker.

`install` makes ``multiprocessing`` (Pool, Process, Queue, Pipe) and
``concurrent.futures.ProcessPoolExecutor`` send arrays on mapped memory by reference,
with every start method. Nothing of it is in force before.
"""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np

from .._explain import Explanation, explain_for_engine
from ._messages import EXPORT_MIN, Options
from ._patches import add, asked, current, remove

__all__ = ["install", "installed", "uninstall"]


def install(*, write_through: bool = False, memory: bool = True) -> None:
    """Make the standard library's pools send arrays on mapped memory as references.

    Arguments and results of `multiprocessing.Pool` and
    `concurrent.futures.ProcessPoolExecutor`, arguments of a `multiprocessing.Process`
    that is spawned or comes from a fork server, and what is put into the queues and
    pipes of `multiprocessing`. Workers that start later do the same; pools that exist
    already keep what they were made with. Installing again changes the options.

    As copies were, arrays are each reader's own: on a writable map, that of an
    `np.memmap` too, they arrive on private pages, writeable as they were sent, and no
    write reaches the file or another process. But a reference is no snapshot: what is
    written to the *file* later shows in pages that the reader has not written to.

    Parameters
    ----------
    write_through : bool
        Let all processes write to every shared and writable map: what one writes to an
        `np.memmap` of mode "r+", the others see, and the file has.
    memory : bool
        Let arrays in ordinary memory of more than 1 MiB go by memory files, as
        arguments and results of `Pool` and `ProcessPoolExecutor`. Without it they are
        pickled.

    Raises
    ------
    UnsupportedEngineError
        If the internals of this Python are not as expected; nothing is touched then.

    See Also
    --------
    uninstall : Undo it.
    samemap.explain : Tells with ``engine="pools"`` how an array would travel.

    Notes
    -----
    A load that fails, as a file is gone, was replaced or has become shorter, is a
    `BackingError` where ``get()`` or ``result()`` is called, and the pool goes on. From
    a queue or a pipe it is raised by ``get()`` or ``recv()``.

    Examples
    --------
    >>> import numpy as np
    >>> import samemap.pools
    >>> samemap.pools.install()
    >>> samemap.pools.installed()
    True
    >>> samemap.pools.uninstall()
    """
    add("pools", bool(write_through), bool(memory))


def uninstall() -> None:
    """Give back the standard library's own ways; harmless where they are in force.

    Pools that exist send as stock does from now on, and what is underway arrives.
    What `samemap.torch.install` has asked for stays.
    """
    remove("pools")


def explain_array(array: np.ndarray[Any, np.dtype[Any]]) -> Explanation:
    """Do the work of ``samemap.explain(array, engine="pools")``."""
    messages = current()
    options = Options() if messages is None else messages.options
    return explain_for_engine(
        array,
        "pools",
        installed=messages is not None,
        write_through=options.write_through,
        export_min=EXPORT_MIN if messages is not None and options.memory else -1,
        protocol=pickle.DEFAULT_PROTOCOL,
    )


def installed() -> bool:
    """Tell whether `install` is in force in this process.

    Returns
    -------
    bool
        True from `install` on, until `uninstall`.
    """
    return "pools" in asked()
