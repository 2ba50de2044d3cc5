"""On or off, and with which options: for the process, and for blocks in one context.

joblib is imported, and three of its functions are replaced, when the first of these
is on.
What the functions there do is asked here at each call, in the thread that calls.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

from ._tables import Options, Verify, make_options

if TYPE_CHECKING:
    from types import ModuleType

_lock = threading.RLock()
_process: Options | None = None
_blocks_on = 0  # of all threads
# The innermost block of this context: its options, in a tuple as None is "off".
_block: ContextVar[tuple[Options | None] | None] = ContextVar("block", default=None)
# samemap._joblib while its functions are in joblib.
_in_place: ModuleType | None = None


def current_options() -> Options | None:
    """What holds for a call made here and now; None is stock joblib."""
    block = _block.get()
    return _process if block is None else block[0]


def _settle() -> None:
    """Put our functions into joblib, or joblib's back; the lock is held."""
    global _in_place
    wanted = _process is not None or _blocks_on > 0
    if wanted and _in_place is None:
        from . import _joblib

        _joblib.put_in()
        _in_place = _joblib
    elif not wanted and _in_place is not None:
        _in_place.take_out()
        _in_place = None


def _set(options: Options | None) -> None:
    """Let `options` hold where no block says otherwise."""
    global _process
    with _lock:
        before, _process = _process, options
        try:
            _settle()
        except BaseException:
            _process = before
            raise


def _count(change: int) -> None:
    global _blocks_on
    with _lock:
        _blocks_on += change
        try:
            _settle()
        except BaseException:
            _blocks_on -= change
            raise


def _after_fork() -> None:
    """Another thread may have held the lock; it isn't here."""
    global _lock
    _lock = threading.RLock()


os.register_at_fork(after_in_child=_after_fork)


def tables_changed() -> None:
    """Make the next executor take the reducers of newly registered classes."""
    with _lock:
        if _in_place is not None:
            _in_place.expire_executor()


def adopt(options: Options) -> None:
    """In a worker: go on as the process that sent the task."""
    if _process != options:
        _set(options)
    if current_options() != options:
        # A fork is in the block of the thread that forked.
        _block.set(None)


def install(
    verify: Verify | None = None,
    strict: bool = False,
    write_through: bool = False,
    memory: bool = True,
) -> None:
    """Make joblib send arrays on mapped memory as references.

    ``import samemap`` does this already, with the defaults. Installing again
    changes the options; pools that exist keep theirs, except loky's reusable
    executor, which is replaced at the next call. Within a block of `enabled` or
    `disabled`, the block's word holds to its end.

    Parameters
    ----------
    verify : {None, "layout", "data"}
        Compare each array on arrival with what was sent: its type, dtype, shape,
        strides and flags, or a checksum of its bytes as well.
    strict : bool
        Raise `StrictError` where an array on mapped memory would be copied, but not
        where the copy is meant: a result that is to be the caller's own, or memory
        in a temporary file of joblib's. Classes that are not registered aren't asked.
    write_through : bool
        Let tasks write to every shared and writable map, whoever made it: FITS
        files open for update, ``np.frombuffer(mmap)``, Arrow, SharedMemory and the
        like. Their writes then reach the file, the caller and other tasks. Without
        it that is so only for an `np.memmap` of mode "r+" or "w+" and its views, and
        for memory made with `empty`, `zeros` or `share`; of any other writable map a
        task gets pages of its own, writeable as sent, and what it writes there nobody
        else sees.
    memory : bool
        Let large arrays in ordinary memory go by memory files, which the other side
        maps privately: in arguments those above ``max_nbytes``, unless a ``mmap_mode``
        was named; in results and exceptions those of 1 MB and more. Without it they
        are left to joblib: dumped read-only, and sent back through a pipe.

    Raises
    ------
    ValueError
        For another value of `verify`.
    UnsupportedJoblibError
        If joblib's internals are not as expected; joblib is then untouched.

    Examples
    --------
    >>> import samemap
    >>> samemap.install(strict=True)  # a copy of mapped memory is an error now
    >>> samemap.installed()
    True
    >>> samemap.install()  # the defaults again, as after the import
    """
    _set(make_options(verify, strict, write_through, memory))


def uninstall() -> None:
    """Give back joblib's own reducers; harmless when they are in force.

    Blocks of `enabled` that other threads are in, or the caller is, go on to
    their end.
    """
    _set(None)


def installed() -> bool:
    """Tell whether joblib uses samemap's reducers, for calls made here and now.

    Returns
    -------
    bool
        False within a block of `disabled`, too.
    """
    return current_options() is not None


@contextmanager
def enabled(
    verify: Verify | None = None,
    strict: bool = False,
    write_through: bool = False,
    memory: bool = True,
) -> Iterator[None]:
    """Install for one ``with`` block, then go back to what was before.

    The block counts for its thread, or its task of asyncio; others are not
    affected, and threads that start in it begin with what `install` has set.

    Parameters
    ----------
    verify : {None, "layout", "data"}
        As for `install`, as are the others.
    strict, write_through, memory : bool
        What may be copied, who sees writes, and what of ordinary memory.

    Raises
    ------
    ValueError, UnsupportedJoblibError
        As for `install`.
    """
    yield from _within(make_options(verify, strict, write_through, memory))


@contextmanager
def disabled() -> Iterator[None]:
    """Use joblib's own reducers for one ``with`` block.

    The block counts for its thread or context, as that of `enabled`.
    """
    yield from _within(None)


def _within(options: Options | None) -> Iterator[None]:
    on = int(options is not None)
    _count(on)
    try:
        token = _block.set((options,))
        try:
            yield
        finally:
            _block.reset(token)
    finally:
        _count(-on)
