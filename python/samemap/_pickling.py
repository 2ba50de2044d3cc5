"""The same reduction for people with a transport of their own."""

from __future__ import annotations

import copyreg
import io
import pickle
from typing import IO, Any, Literal

from ._core import Outgoing
from ._switch import current_options
from ._tables import Options, Verify, make_options, make_table

Installed = Literal["as installed"]


def _choose(
    verify: Verify | Installed | None, strict: bool | Literal["as installed"]
) -> Options:
    """What was asked for; where nothing was, what is installed here."""
    installed = current_options() or Options()
    return make_options(
        installed.verify if verify == "as installed" else verify,
        installed.strict if strict == "as installed" else strict,
        installed.write_through,
    )


class Pickler(pickle.Pickler):
    """A pickler that writes arrays on mapped memory as references.

    Read the result with `loads` or plain `pickle.load`, while the sender still
    holds the arrays: a reference to an unlinked file leads through the sender.
    Everything else is pickled as usual, with protocol 5.

    Parameters
    ----------
    file : file object
        Open for writing bytes.
    verify : {None, "layout", "data", "as installed"}
        As for `install`; by default what is installed when the pickler is made.
    strict : bool or "as installed"
        As for `install`; by default what is installed when the pickler is made.

    Notes
    -----
    ``write_through`` is always as installed.

    A pickle of references is a message, not storage: to save data, use
    `numpy.save` or plain `pickle`.

    Arrays on an `np.memmap` share its pages as its mode says, and those that `empty`,
    `zeros` and `share` have made share theirs; what else lies on a writable map is the
    reader's own, on private pages, for each message anew (see `install`).
    """

    def __init__(
        self,
        file: IO[bytes],
        *,
        verify: Verify | Installed | None = "as installed",
        strict: bool | Installed = "as installed",
    ) -> None:
        super().__init__(file, protocol=5)
        table = make_table(_choose(verify, strict))
        self.dispatch_table = {**copyreg.dispatch_table, **table}

    def dump(self, obj: Any) -> None:
        """Write one message.

        Parameters
        ----------
        obj : object
            What to pickle, with all arrays that it leads to.

        Raises
        ------
        BackingTruncatedError
            If the file of an array has become shorter than its map.
        StrictError
            If mapped memory would be copied and `strict` was given.
        """
        message = Outgoing()
        try:
            super().dump(obj)
        finally:
            message.close()


def dumps(
    obj: Any,
    *,
    verify: Verify | Installed | None = "as installed",
    strict: bool | Installed = "as installed",
) -> bytes:
    """Pickle an object; arrays on mapped memory become references.

    Parameters
    ----------
    obj : object
        What to pickle, with all arrays that it leads to.
    verify : {None, "layout", "data", "as installed"}
        As for `install`; by default what is installed.
    strict : bool or "as installed"
        As for `install`; by default what is installed.

    Returns
    -------
    bytes
        For `loads`, in any process of this user on this machine, while the arrays
        are kept here. Who sees what is written: see `Pickler`.

    Raises
    ------
    BackingTruncatedError, StrictError
        As for `Pickler.dump`.

    Examples
    --------
    A row of a file, in a message that could go to another process:

    >>> import os, tempfile
    >>> import numpy as np
    >>> import samemap
    >>> folder = tempfile.TemporaryDirectory()
    >>> path = os.path.join(folder.name, "table.dat")
    >>> table = np.memmap(path, "f8", "w+", shape=(1000, 1000))
    >>> table[7] = 7
    >>> message = samemap.dumps(table[7])
    >>> len(message) < 1000  # bytes, for 8,000 bytes of elements
    True
    >>> row = samemap.loads(message)
    >>> float(row[0]), row.shape
    (7.0, (1000,))
    >>> folder.cleanup()
    """
    file = io.BytesIO()
    Pickler(file, verify=verify, strict=strict).dump(obj)
    return file.getvalue()


def loads(data: bytes | bytearray | memoryview) -> Any:
    """Load what `dumps` wrote.

    As with any pickle: only from those you trust. The message names files to
    open.

    Parameters
    ----------
    data : bytes-like object
        One message.

    Returns
    -------
    object
        Arrays on the pages that the sender has mapped, or on private ones of them;
        each call makes private ones of its own.

    Raises
    ------
    BackingError
        If the file of an array is gone, was replaced, has become shorter or may
        not be opened; the exact type tells which.
    VerificationError
        If `verify` was asked for and an array arrived otherwise.
    MessageVersionError
        If another version of samemap has written the message.
    ValueError, TypeError
        If the message is damaged.
    """
    return pickle.loads(data)
