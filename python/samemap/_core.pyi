from collections.abc import Callable, Container
from mmap import mmap
from typing import Any, final

import numpy as np

# Which system the module was built for: "linux", or "none" for what knows nothing.
SYSTEM: str

_Array = np.ndarray[Any, np.dtype[Any]]
_Reduction = tuple[Any, ...]

@final
class Backing:
    def __reduce__(self) -> _Reduction: ...

@final
class Source: ...

_Bytes = Source | bytes | bytearray
_Memory = _Bytes | tuple[_Bytes, Any, Any, Any]

@final
class Pending: ...

@final
class Outgoing:
    def __new__(cls, held: list[Any] | None = None) -> Outgoing: ...
    def objects(
        self, tasks: list[Any], types: Container[type], /
    ) -> tuple[list[Any], list[Any], list[type]]: ...
    def enter(self, phase: int, /) -> None: ...
    def is_entangled(self) -> bool: ...
    def is_shared(self, object: object, /) -> bool: ...
    def close(self) -> int: ...

@final
class Reducer:
    def __new__(
        cls,
        stock: Callable[[Any], Any] | None = None,
        max_nbytes: int | None = None,
        backward: bool = False,
        strict: bool = False,
        counted: bool = True,
        write_through: bool = False,
    ) -> Reducer: ...
    def reduce(self, array: _Array, /) -> _Reduction: ...
    def __reduce__(self) -> _Reduction: ...

def attach(
    version: int,
    token: bytes,
    path: bytes,
    identity: bytes,
    offset: int,
    length: int,
    access: int,
    pid: int,
    /,
) -> Source: ...
def rebuild(
    memory: _Memory,
    layout: bytes,
    dtype: np.dtype[Any] | None = None,
    patches: tuple[Any, ...] | None = None,
    /,
) -> _Array: ...
def pending(
    memory: _Memory,
    layout: bytes,
    dtype: np.dtype[Any] | None = None,
    patches: tuple[Any, ...] | None = None,
    finish: tuple[Callable[..., Any], Any] | None = None,
    /,
) -> Pending: ...
def pending_call(function: Callable[..., Any], /, *args: Any) -> Pending: ...
def run(
    function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], /
) -> Any: ...
def count_pending() -> list[Any] | None: ...
def is_own(array: _Array, /) -> int: ...
def is_mapped(array: _Array, /) -> bool: ...
def describe(array: _Array, /) -> dict[str, Any]: ...
def counts() -> dict[str, tuple[int, int]]: ...
def shared_memory(nbytes: int, data: _Array | memoryview | bytes = b"", /) -> mmap: ...
def known() -> int: ...
def set_map_table(source: str, /) -> None: ...
def set_pagemap(source: str, /) -> None: ...
def _after_fork() -> None: ...
