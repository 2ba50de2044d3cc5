"""Messages of the standard library's pools and queues, as samemap writes them.

Nothing here touches those. A message is what stock writes, with another dispatch table;
only if an array went by reference, and a load that fails would stop a pool, are the
bytes put into an envelope: a call of one of the `load_` functions below, which returns
the error where the pool looks for one.
"""

from __future__ import annotations

import copyreg
import io
import os
import pickle
import sys
from collections.abc import Callable
from concurrent.futures import process
from multiprocessing.reduction import ForkingPickler
from typing import Any, NamedTuple, NoReturn

from .. import _exports, _subclasses
from .._core import Export, Outgoing, forget_images
from .._envelope import Receipts
from .._errors import SamemapError
from .._tables import Table, make_engine_table

if sys.version_info >= (3, 12):
    from collections.abc import Buffer
else:
    Buffer = Any

# Arrays in ordinary memory of more bytes go by memory files.
EXPORT_MIN = 1 << 20

_CallItem: Any = process._CallItem
_ResultItem: Any = process._ResultItem

# That of ForkingPickler.dumps.
_PROTOCOL = pickle.DEFAULT_PROTOCOL
_extra_reducers: Table = vars(ForkingPickler)["_extra_reducers"]


class Options(NamedTuple):
    """What was asked for, and by whose `install`; travels to the workers."""

    write_through: bool = False
    memory: bool = True
    engines: frozenset[str] = frozenset(["pools"])


# Names that each message uses.
_copyreg_reducers: Table = copyreg.dispatch_table
_BytesIO, _Pickler = io.BytesIO, pickle.Pickler

# Of other engines: laid over all that is registered.
overrides: Table = {}


class Hold:
    """What a message names, kept until its results are there.

    With the last one the images of arrays in ordinary memory go, too: they are there
    for messages that follow soon.
    """

    def __init__(self, held: list[Any]) -> None:
        self.held = held
        _holds[id(self)] = None

    @property
    def has_files(self) -> bool:
        """Whether an array in ordinary memory was written to a memory file."""
        return any(type(item) is Export for item in self.held)

    def __del__(self) -> None:
        _holds.pop(id(self), None)
        if not _holds:
            forget_images()


_holds: dict[int, None] = {}


def registered(cls: type) -> Any:
    """Return the reducer that somebody has registered with ForkingPickler, or None."""
    return _extra_reducers.get(cls)


class Messages:
    """Writes messages with one set of options.

    Parameters
    ----------
    options : Options
    """

    def __init__(self, options: Options) -> None:
        self.options = options
        # Executors of this process hold what the messages of their calls name.
        self.find_work: Callable[[Any], Any] = lambda call: None
        self._readers = os.cpu_count() or 1
        self._export_min = EXPORT_MIN if options.memory else -1
        self._renew()

    def _renew(self) -> None:
        """Make the tables, of all classes that are known now."""
        modules = len(sys.modules)
        share = self.options.write_through
        make = make_engine_table
        self._lasting = make(protocol=_PROTOCOL, write_through=share)
        self._held = make(protocol=_PROTOCOL, write_through=share, lasting=False)
        self._backward = make(protocol=_PROTOCOL, write_through=share, backward=True)
        # A class that is known later has been imported by then. Last, as other threads
        # look at it.
        self._modules = 0 if _subclasses.are_missing() else modules

    def forget_classes(self) -> None:
        """Make the tables anew for the next message."""
        self._modules = 0

    def _dump(self, obj: Any, kind: str) -> io.BytesIO:
        """Pickle as `ForkingPickler.dumps` does, in fewer steps."""
        if len(sys.modules) != self._modules:
            self._renew()
        buffer = _BytesIO()
        pickler = _Pickler(buffer)
        # What the user, or PyTorch, has registered wins.
        pickler.dispatch_table = {
            **getattr(self, kind),
            **_copyreg_reducers,
            **_extra_reducers,
            **overrides,
        }
        pickler.dump(obj)
        return buffer

    def dumps(self, obj: Any) -> Buffer:
        """Write what a queue sends."""
        cls = type(obj)
        if cls is _CallItem:
            return self._call(obj)
        if cls is _ResultItem:
            return self._result_item(obj)
        return self.lasting(obj)[0].getbuffer()

    def lasting(self, obj: Any) -> tuple[io.BytesIO, list[Any]]:
        """Write what is read nobody knows when; with what it names."""
        held: list[Any] = []
        message = Outgoing(held)
        try:
            return self._dump(obj, "_lasting"), held
        finally:
            message.close()

    def held(self, obj: Any) -> tuple[io.BytesIO, list[Any]]:
        """Write what is read while the list of what it names is kept."""
        held: list[Any] = []
        message = Outgoing(held, self._export_min, None, self._readers)
        try:
            return self._dump(obj, "_held"), held
        finally:
            message.close()

    def _backwards(self, obj: Any) -> tuple[io.BytesIO, list[Any], Receipts]:
        """Write results; with what the message names, and receipts for its files."""
        held: list[Any] = []
        message = Outgoing(held)
        try:
            if self.options.memory:
                message.results(())
            buffer = self._dump(obj, "_backward")
            return buffer, held, message.receipts() if self.options.memory else ()
        except BaseException:
            message.discard()
            raise
        finally:
            message.close()

    # ---- concurrent.futures --------------------------------------------------

    def _call(self, call: Any) -> Buffer:
        buffer, held = self.held(call)
        if not held:
            return buffer.getbuffer()
        work = self.find_work(call)
        if work is None:
            # Nobody would hold it: an executor that is older than `install`.
            return ForkingPickler.dumps(call)
        work.samemap_hold = Hold(held)
        return _enclose(load_call, call.work_id, buffer.getvalue())

    def _result_item(self, item: Any) -> Buffer:
        buffer, held, receipts = self._backwards(item)
        if not held and not receipts:
            return buffer.getbuffer()
        if receipts:
            _exports.expect_receipts()
        more = item.work_id, item.exit_pid
        return _enclose(load_result_item, *more, buffer.getvalue(), receipts)

    # ---- multiprocessing.Pool ------------------------------------------------

    def task(self, task: tuple[Any, ...]) -> tuple[Buffer, Hold | None]:
        """Write a task of a pool: (job, i, function, args, kwargs)."""
        buffer, held = self.held(task)
        if not held:
            return buffer.getbuffer(), None
        return _enclose(load_task, task[0], task[1], buffer.getvalue()), Hold(held)

    def result(self, result: tuple[Any, ...]) -> Buffer:
        """Write a result of a pool: (job, i, (success, value))."""
        try:
            buffer, held, receipts = self._backwards(result)
        except SamemapError as error:
            # The pool would make a text of it, and of the value, which can't be read.
            failed = (False, error.with_traceback(None))
            return ForkingPickler.dumps((result[0], result[1], failed))
        if not held and not receipts:
            return buffer.getbuffer()
        if receipts:
            _exports.expect_receipts()
        return _enclose(load_result, result[0], result[1], buffer.getvalue(), receipts)


class _Envelope:
    def __init__(self, load: Callable[..., Any], args: tuple[Any, ...]) -> None:
        self.reduction = load, args

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.reduction


def _enclose(load: Callable[..., Any], *args: Any) -> bytes:
    return pickle.dumps(_Envelope(load, args))


def raise_error(error: BaseException) -> NoReturn:
    """Stand in for a task that could not be loaded."""
    raise error


def load_call(work_id: int, data: bytes) -> Any:
    """Load a call of an executor, or one that raises what loading it has raised."""
    try:
        return pickle.loads(data)
    except Exception as error:
        return _CallItem(work_id, raise_error, (error,), {})


def load_result_item(
    work_id: int, exit_pid: int | None, data: bytes, receipts: Receipts
) -> Any:
    """Load what an executor's call returned, or raise the error from its future."""
    try:
        return _exports.load(data, receipts)
    except Exception as error:
        return _ResultItem(work_id, exception=error, exit_pid=exit_pid)


def load_task(job: int, i: int, data: bytes) -> Any:
    """Load a task of a pool, or one that raises what loading it has raised."""
    try:
        return pickle.loads(data)
    except Exception as error:
        return job, i, raise_error, (error,), {}


def load_result(job: int, i: int, data: bytes, receipts: Receipts) -> Any:
    """Load what a pool's task returned, or raise the error from its `get`."""
    try:
        return _exports.load(data, receipts)
    except Exception as error:
        return job, i, (False, error)
