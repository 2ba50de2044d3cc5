"""What is sent: expressions that a stock worker can evaluate.

The scheduler loads a graph and pickles each of its tasks again; what a client sends to
a worker is passed on unread. Neither may need samemap. So a message is bytes beside a
Python expression, which the builtin `eval` runs where the bytes are wanted: with
samemap it calls `_arrival`. Without it, which only a worker can be that has come after
the message was written, it asks for another worker, and at last raises; in a comm,
where nothing may raise, it makes an object that raises when it is used.
"""

from __future__ import annotations

import pickle
from typing import Any

from dask._task_spec import Alias, Dict, List, Task

from .._remote import Message

# Short, as they are in every message, of which `m` are the parts.
_FOUND = "if(i:=__import__)('importlib').util.find_spec('samemap')else"
_THROW = "(_ for _ in()).throw"

# In a task. How often it was tried here is counted by the message.
_RETRY = (
    "((n:=vars(i('sys')).setdefault(f'_{hash(m)}',[])).append(0),i('time').sleep(1),"
    f"{_THROW}(i('distributed').Reschedule()if len(n)%6 else i('samemap')))"
)

_LOAD = f"i('samemap').dask._load(*m){_FOUND}{_RETRY}"

_LOAD_BATCH = f"i('samemap').dask._batch(m,v){_FOUND}{_RETRY}"

# In a comm.
_USES = (
    "__array__ __len__ __iter__ __getitem__ __call__ __add__ __radd__ __mul__ __rmul__ "
    "__sub__ __rsub__ __matmul__ __float__ __int__ __bool__"
)

_RECEIVE = (
    f"i('samemap').dask._receive(*m){_FOUND} type('MissingSamemap',(),"
    f"dict.fromkeys('{_USES}'.split(),lambda*a,**k:i('samemap')))()"
)


def task(message: Message, key: Any = None, data_producer: bool = False) -> Task:
    """Make the node of a graph that is the object of a message."""
    return Task(key, eval, _LOAD, {"m": tuple(message)}, _data_producer=data_producer)


def batch_task(parts: tuple[Any, ...], keys: list[Any]) -> Task:
    """Make the node of a graph that is the tasks of a batch of joblib's.

    Parameters
    ----------
    parts : tuple
        As `_arrival.load_batch` takes them.
    keys : list
        Of the futures in it.
    """
    if not keys:
        return Task(None, eval, _LOAD_BATCH, {"m": parts, "v": ()})
    values = Dict({"v": List(*(Alias(key) for key in keys))})
    return Task(None, eval, _LOAD_BATCH, {"m": parts}, values)


class _Received:
    def __init__(self, message: Message) -> None:
        self.message = message

    def __reduce__(self) -> Any:
        return eval, (_RECEIVE, {"m": tuple(self.message)})


def frame(message: Message) -> bytes:
    """Make a pickle that loads as the object, or as what raises when it is used."""
    return pickle.dumps(_Received(message), 5)


class ByValue:
    """A function that is pickled as the expression that makes it.

    For the scheduler, which has no samemap to import it from.
    """

    def __init__(self, source: str) -> None:
        self.source = source

    def __reduce__(self) -> Any:
        return eval, (self.source,)
