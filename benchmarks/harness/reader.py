"""Another process, in which messages are loaded."""

import mmap
import multiprocessing
import os
import pickle
from collections.abc import Callable
from functools import partial
from typing import Any

from .timing import ROUND, cpu_seconds


class Reader:
    """A process that loads one message after the other, and lets each go.

    So every load maps the files anew. It also times what no side can do without: to
    open, check, map and close a file.
    """

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=serve, args=(theirs,), daemon=True)
        self._process.start()
        theirs.close()

    def __enter__(self) -> "Reader":
        return self

    def __exit__(self, *_: object) -> None:
        self._pipe.close()
        self._process.join()

    def send(self, message: bytes, calls: int = 1) -> None:
        """Send a message, to be loaded `calls` times."""
        self._pipe.send((message, calls))

    def receive(self) -> float:
        """Return the CPU time that it took to load the message once."""
        seconds: float = self._pipe.recv()
        return seconds

    def load(self, message: bytes, calls: int = 1) -> float:
        """Send and receive."""
        self.send(message, calls)
        return self.receive()

    def stopwatch(self, message: bytes) -> Callable[[], float]:
        """For `interleave`: a round takes about `ROUND` seconds."""
        calls = 1
        while self.load(message, calls) * calls < ROUND / 2:
            calls *= 2
        return lambda: self.load(message, calls)

    def map(self, path: str) -> float:
        """Return the CPU time that it takes there to map all of a file."""
        self._pipe.send((path, 1))
        return self.receive()


def serve(pipe: Any) -> None:
    """Answer a `Reader`."""
    while True:
        try:
            message, calls = pipe.recv()
        except EOFError:
            return
        load = map_file if isinstance(message, str) else pickle.loads
        pipe.send(cpu_seconds(partial(load, message), calls))


def map_file(path: str) -> mmap.mmap:
    """The least that must be done for an array on a file."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    os.fstat(fd)
    result = mmap.mmap(fd, 0, prot=mmap.PROT_READ)
    os.close(fd)
    return result
