from collections.abc import Callable
from mmap import mmap
from typing import Any, final

import numpy as np

_Array = np.ndarray[Any, np.dtype[Any]]
_Reduction = tuple[Any, ...]
_Memory = mmap | bytes | bytearray | BaseException

@final
class Backing:
    def __reduce__(self) -> _Reduction: ...

@final
class Outgoing:
    def __new__(
        cls, carries: bool = False, held: list[Any] | None = None
    ) -> Outgoing: ...
    def __reduce__(self) -> _Reduction: ...

@final
class Incoming:
    def close(self) -> BaseException | None: ...

@final
class Reducer:
    def __new__(
        cls,
        stock: Callable[[Any], Any] | None = None,
        max_nbytes: int | None = None,
        backward: bool = False,
        strict: bool = False,
        counted: bool = True,
    ) -> Reducer: ...
    def reduce(self, array: _Array, /) -> _Reduction: ...
    def __reduce__(self) -> _Reduction: ...

def attach(
    token: bytes,
    path: bytes,
    identity: bytes,
    offset: int,
    length: int,
    access: int,
    pid: int,
    /,
) -> mmap: ...
def rebuild(
    memory: _Memory | tuple[_Memory, Any, Any, Any],
    layout: bytes,
    dtype: np.dtype[Any] | None = None,
    patches: tuple[Any, ...] | None = None,
    /,
) -> _Array: ...
def refused(error: BaseException, dtype: np.dtype[Any], layout: bytes, /) -> _Array: ...
def incoming(raises: bool = False, /) -> Incoming: ...
def note(error: BaseException, /) -> BaseException: ...
def is_mapped(array: _Array, /) -> bool: ...
def describe(array: _Array, /) -> dict[str, Any]: ...
def counts() -> dict[str, tuple[int, int]]: ...
def known() -> int: ...
def set_map_table(source: str, /) -> None: ...
def set_pagemap(source: str, /) -> None: ...
def _after_fork() -> None: ...
