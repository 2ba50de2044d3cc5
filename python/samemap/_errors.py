"""The errors of samemap. The C half imports this module, so it imports nothing."""

from __future__ import annotations


class SamemapError(Exception):
    """Base class of all errors of samemap's own."""


class BackingError(SamemapError, OSError):
    """The file behind an array can't be used as the sender mapped it.

    Attributes
    ----------
    path : str
        The file, or ``/proc/<pid>/fd/<n>`` where it was reached by a descriptor.
    expected, found : str
        What the sender mapped, and what is there now.
    """

    def __init__(
        self, message: str, path: str, expected: str, found: str, errno: int = 0
    ) -> None:
        super().__init__(errno or None, message, path)
        self.message = message
        self.path = path
        self.expected = expected
        self.found = found

    def __str__(self) -> str:
        return (
            f"{self.message}: {self.path!r} "
            f"(expected {self.expected}; found {self.found})"
        )

    def __reduce__(self) -> tuple[type[BackingError], tuple[object, ...]]:
        arguments = (self.message, self.path, self.expected, self.found)
        return type(self), (*arguments, self.errno or 0)


class BackingNotFoundError(BackingError, FileNotFoundError):
    """The file is gone: removed, or its descriptor closed with its process."""


class BackingReplacedError(BackingError):
    """The path leads to another file now, or to something that isn't one."""


class BackingTruncatedError(BackingError):
    """The file has become shorter than the part of it that is mapped."""


class BackingPermissionError(BackingError, PermissionError):
    """The file may not be opened with the access of the map."""


class VerificationError(SamemapError):
    """An array arrived otherwise than it was sent (see ``install(verify=...)``).

    Attributes
    ----------
    path : str or None
        The file that the sender had mapped; None for an array in ordinary memory.
    """

    def __init__(self, message: str, path: str | None = None) -> None:
        super().__init__(message)
        self.path = path

    def __reduce__(self) -> tuple[type[VerificationError], tuple[object, ...]]:
        return type(self), (*self.args, self.path)


class StrictError(SamemapError):
    """Mapped memory would be copied (see ``install(strict=True)``)."""


class UnsupportedJoblibError(SamemapError, ImportError):
    """The internals of the installed joblib are not what samemap knows."""


class UnsupportedEngineError(SamemapError, ImportError):
    """The internals of an engine or a pool are not what samemap knows."""


class MessageVersionError(SamemapError, ValueError):
    """The message was written by another version of samemap than reads it."""


class LostWritesWarning(UserWarning):
    """Tasks have written into arrays of which each task had its own."""
