"""What is sent: expressions that a stock worker can evaluate.

The scheduler loads a graph and pickles each of its tasks again; what a client sends to a
worker is passed on unread. Neither may need samemap. So a message is bytes beside a
Python expression, which the builtin `eval` runs where the bytes are wanted: with samemap
it calls `arrival`. Without it, which only a worker can be that has come after the message
was written, it asks for another worker, and at last raises; in a comm, where
nothing may raise, it makes an object that raises when it is used.
"""

from __future__ import annotations

import pickle
from typing import Any

from dask._task_spec import Task

from .._remote import Message

_MISSING = (
    "ModuleNotFoundError('this worker has come after the array was sent by '"
    "'reference, and has no samemap',name='samemap')"
)

_FOUND = "i('importlib.util').find_spec('samemap')"

_THROW = "(_ for _ in ()).throw"

# In a task. How often it was tried here is counted by the message.
_RETRY = (
    "(lambda n:(n.append(0),i('time').sleep(.05*2**min(len(n),5)),"
    f"{_THROW}(i('distributed').Reschedule()if len(n)%8 else {_MISSING})))"
    "(vars(i('sys')).setdefault('_samemap_tries',{}).setdefault(hash(m[2]),[]))"
)

_IMPORT = "(__import__('importlib').import_module"

_LOAD = (
    f"(lambda i,m:i('samemap.dask._arrival').load(*m)if {_FOUND} else {_RETRY})"
    f"{_IMPORT},m)"
)

_LOAD_BATCH = (
    f"(lambda i,m,v:i('samemap.dask._arrival').load_batch(m,v)if {_FOUND} "
    f"else {_RETRY}){_IMPORT},m,v)"
)

# In a comm.
_USES = (
    "__array__ __len__ __iter__ __getitem__ __call__ __add__ __radd__ __mul__ __rmul__ "
    "__sub__ __rsub__ __matmul__ __float__ __int__ __bool__"
)

_RECEIVE = (
    f"(lambda i,m:i('samemap.dask._arrival').receive(*m)if {_FOUND} else "
    f"type('MissingSamemap',(),dict.fromkeys('{_USES}'.split(),"
    f"lambda *a,**k:{_THROW}({_MISSING})))()){_IMPORT},m)"
)


def task(message: Message, key: Any = None, data_producer: bool = False) -> Task:
    """Make the node of a graph that is the object of a message."""
    return Task(
        key, eval, _LOAD, {"m": tuple(message)}, _data_producer=data_producer
    )


def batch_task(parts: tuple[Any, ...], values: Any) -> Task:
    """Make the node of a graph that is the tasks of a batch of joblib's.

    Parameters
    ----------
    parts : tuple
        As `arrival.load_batch` takes them; the third is hashable.
    values : GraphNode
        A dict whose "v" are the values of futures.
    """
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
