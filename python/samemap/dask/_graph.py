"""Graphs: what holds mapped arrays becomes a node that the task's worker evaluates.

The scheduler loads the arguments of `submit` and `map` and pickles each task anew, with
plain pickle: references would become copies there. So each argument that leads to a
mapped array is replaced by a node that the scheduler can't look into (`_wire.task`).
Graphs of collections are materialized here, as the scheduler would do, if there is a
mapped array in them.
"""

from __future__ import annotations

import functools
import operator
import uuid
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from dask._expr import HLGExpr, LLGExpr
from dask._task_spec import (
    DataNode,
    GraphNode,
    Task,
    TaskRef,
    convert_legacy_graph,
)
from dask.highlevelgraph import HighLevelGraph, MaterializedLayer
from distributed import Client
from distributed.utils import iscoroutinefunction

from .. import _remote
from .._core import is_mapped
from .._errors import SamemapError
from .._remote import Message, Readers
from .._tables import Table, make_engine_table
from . import _arrival, _audience, _wire
from ._plain import is_plain

# Beyond so many nodes, one look at the whole graph is quicker than one at each.
_FEW_NODES = 100

_write_through = False


class _Rewriter:
    """Replaces what holds mapped arrays in the nodes of one graph."""

    def __init__(self, readers: Readers, write_through: bool) -> None:
        self.readers = readers
        self.table: Table = make_engine_table(protocol=5, write_through=write_through)
        self.held: list[Any] = []
        # The messages of objects that several nodes have; the objects stay there.
        self._messages: dict[int, tuple[Any, Message | None]] = {}
        self.changed = False

    def write(self, obj: Any) -> Message | None:
        """Return a message for what leads to a mapped array, else None.

        Raises
        ------
        SamemapError
        """
        if is_plain(obj):
            return None
        known = self._messages.get(id(obj))
        if known is not None:
            return known[1]
        message = self._write(obj)
        self._messages[id(obj)] = obj, message
        self.changed = self.changed or message is not None
        return message

    def _write(self, obj: Any) -> Message | None:
        if type(obj) is np.ndarray and not obj.dtype.hasobject and not is_mapped(obj):
            return None
        try:
            return _remote.write(obj, self.table, self.readers, self.held)
        except SamemapError:
            raise
        except Exception:
            # Not to be pickled: distributed is going to say so.
            return None

    def node(self, node: Any) -> Any:
        """Return a node of a graph, or of a task's arguments, without mapped arrays."""
        if type(node) is DataNode:
            message = self.write(node.value)
            if message is None:
                return node
            return _wire.task(message, node.key, data_producer=True)
        if not isinstance(node, Task):
            return node
        function = node.func
        args = [self.argument(arg) for arg in node.args]
        kwargs = {name: self.argument(value) for name, value in node.kwargs.items()}
        message = self.write(function)
        # The scheduler asks whether it is a coroutine: that would not be seen.
        if message is not None and not iscoroutinefunction(function):
            args.insert(0, _wire.task(message))
            function = operator.call
        elif _all_same(args, node.args) and _all_same(
            kwargs.values(), node.kwargs.values()
        ):
            return node
        cls: Any = type(node) if function is node.func else Task
        copy = cls.__new__(cls)
        for slot in cls.get_all_slots():
            setattr(copy, slot, getattr(node, slot))
        copy.func, copy.args, copy.kwargs = function, tuple(args), kwargs
        copy._token = copy._repr = None
        return copy

    def argument(self, value: Any) -> Any:
        """Return an argument, or the node that stands for it."""
        if isinstance(value, (GraphNode, TaskRef)):
            return self.node(value)
        message = self.write(value)
        return value if message is None else _wire.task(message)


def _all_same(first: Iterable[Any], second: Iterable[Any]) -> bool:
    return all(a is b for a, b in zip(first, second, strict=True))


def rewrite(expr: Any, readers: Readers, write_through: bool, held: list[Any]) -> Any:
    """Return an expression of the same graph without mapped arrays in the open.

    Parameters
    ----------
    expr : dask._expr.Expr
    readers : Readers
        Who may run its tasks.
    write_through : bool
    held : list
        Gets what is named that has no path.

    Raises
    ------
    BackingTruncatedError
        If the file of an array has become shorter than its map.
    """
    rewriter = _Rewriter(readers, write_through)
    graph = expr.operand("dsk") if type(expr) is LLGExpr else None
    if not isinstance(graph, dict) or len(graph) > _FEW_NODES:
        # A look at all of it, which copies no data.
        message = rewriter._write(expr)
        rewriter.held.clear()
        if message is None:
            return expr
    annotations: dict[str, dict[Any, Any]] = {}
    if type(expr) is not LLGExpr:
        annotations = {
            kind: dict(values)
            for kind, values in expr.__dask_annotations__().items()
            if values
        }
        graph = expr.__dask_graph__()
    # What has no nodes yet has arguments that only this tells from data.
    nodes = convert_legacy_graph(graph)
    found = {key: rewriter.node(node) for key, node in nodes.items()}
    if not rewriter.changed:
        return expr
    held += rewriter.held
    if not annotations:
        return LLGExpr(found, _determ_token=uuid.uuid4().hex)
    # The method is asked for each key, and None is no annotation.
    layer = MaterializedLayer(
        found, annotations={kind: values.get for kind, values in annotations.items()}
    )
    graph = HighLevelGraph({"materialized": layer}, {"materialized": set()})
    return HLGExpr(graph, None, list(expr.__dask_keys__()))


# ---- In and out --------------------------------------------------------------


def _make_graph_to_futures(stock: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap ``Client._graph_to_futures``, through which all graphs of a client go."""

    @functools.wraps(stock)
    def _graph_to_futures(
        self: Any, expr: Any, keys: Any, *args: Any, **kw: Any
    ) -> Any:
        audience = _audience.of(self)
        if audience.results is None:
            audience.results = _write_through
        readers = audience.readers()
        held: list[Any] = []
        # Futures that `recreate_error_locally` and the like ask for have no graph.
        if readers is not None and not readers.blind and hasattr(expr, "operand"):
            expr = rewrite(expr, readers, _write_through, held)
        futures = stock(self, expr, keys, *args, **kw)
        if held:
            audience.hold(futures, held)
        return futures

    return _graph_to_futures


def _make_gather_remote(stock: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap ``Client._gather_remote``: what could not be loaded raises here."""

    @functools.wraps(stock)
    async def _gather_remote(self: Any, *args: Any, **kwargs: Any) -> Any:
        response = await stock(self, *args, **kwargs)
        for value in response.get("data", {}).values():
            if isinstance(value, _arrival.Unreadable):
                value.fail()
        return response

    return _gather_remote


_REPLACED = {
    "_graph_to_futures": _make_graph_to_futures,
    "_gather_remote": _make_gather_remote,
}
_stock: dict[str, Any] = {}


def put_in(write_through: bool) -> None:
    """Let the graphs of all clients of this process go by reference."""
    global _write_through
    _write_through = write_through
    if _stock:
        return
    for name, make in _REPLACED.items():
        _stock[name] = Client.__dict__[name]
        setattr(Client, name, make(_stock[name]))


def take_out() -> None:
    """Give back distributed's own functions."""
    while _stock:
        name, stock = _stock.popitem()
        setattr(Client, name, stock)
