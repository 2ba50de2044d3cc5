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

# Short, as they are in every message, of which `m` are the parts; and what is seldom
# needed is a string in it, as compiling takes longer than loading an array.
_FOUND = "if __import__('importlib').util.find_spec('samemap')else"

# In a task. How often it was tried here is counted by the message.
_RETRY = (
    "import time,distributed as d;n=vars(d).setdefault(f'_{hash(m)}',[]);n+=0,;"
    "time.sleep(1)\nif len(n)%6:raise d.Reschedule\nimport samemap"
)

_MISSING = f" exec({_RETRY!r})"

_LOAD = f"__import__('samemap').dask._load(*m){_FOUND}{_MISSING}"

_LOAD_BATCH = f"__import__('samemap').dask._batch(m){_FOUND}{_MISSING}"

_LOAD_BATCH_WITH = f"__import__('samemap').dask._batch(m,v){_FOUND}{_MISSING}"

# In a comm.
_USES = (
    "__array__ __len__ __iter__ __getitem__ __call__ __add__ __radd__ __mul__ __rmul__ "
    "__sub__ __rsub__ __matmul__ __float__ __int__ __bool__"
)

_STAND_IN = (
    f"type('MissingSamemap',(),dict.fromkeys('{_USES}'.split(),"
    "lambda*a,**k:__import__('samemap')))()"
)

_RECEIVE = f"__import__('samemap').dask._receive(*m){_FOUND} eval({_STAND_IN!r})"


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
        return Task(None, eval, _LOAD_BATCH, {"m": parts})
    values = Dict({"v": List(*(Alias(key) for key in keys))})
    return Task(None, eval, _LOAD_BATCH_WITH, {"m": parts}, values)


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
