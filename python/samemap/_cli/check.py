"""``python -m samemap check``: does every layout of *your* file arrive?

The file is mapped read-only and never written. Sender and worker each hash what
they have, so that no copy of the data is made or sent.
"""

import argparse
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from joblib import Parallel, delayed

from .. import enabled
from .datafile import InputError, open_data, parse_size
from .layouts import Array, Traits, digest, reading_order, views_of

if TYPE_CHECKING:
    from argparse import _SubParsersAction

# Multiprocessing first: it forks, and loky leaves threads in the parent.
BACKENDS = ("multiprocessing", "loky")
DEFAULT_LIMIT = "256M"
# Multiprocessing never hears of a worker that died, so every wait has an end: in
# seconds, and for what is read, at the speed of a slow disk.
TIMEOUT = 120
SLOW_DISK = 5_000_000


def add_command(commands: "_SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add ``check`` to the command line."""
    parser = commands.add_parser(
        "check",
        help="send your file through workers in many layouts",
        description="Send an array file through workers in many layouts and say "
        "whether each arrived, and came back, byte for byte. The file is opened "
        "read-only. Exit status: 0 all did, 1 one did not, 2 the file or an option "
        "can't be used.",
    )
    parser.add_argument("file", metavar="FILE", help="a .npy file, or a raw file")
    raw = parser.add_argument_group("raw files")
    raw.add_argument("--dtype", help='as NumPy writes it: "float32", ">i2", "u1,f8"')
    raw.add_argument("--shape", help='"1000,3"; default: all of the file, 1-D')
    raw.add_argument("--order", choices=["C", "F"], help="default: C")
    raw.add_argument("--offset", help="bytes before the first item; default: 0")
    parser.add_argument(
        "--backend", choices=BACKENDS, help="use one pool; default: both, one by one"
    )
    parser.add_argument(
        "--limit",
        default=DEFAULT_LIMIT,
        metavar="BYTES",
        help="read at most about this much of each layout, in evenly spaced slices "
        "where it is larger; suffixes K, M, G, T; default: %(default)s",
    )
    parser.set_defaults(function=_main)


def _main(options: argparse.Namespace) -> int:
    try:
        limit = parse_size("--limit", options.limit)
        array = open_data(options)
    except InputError as error:
        print(f"python -m samemap check: {error}", file=sys.stderr)
        return 2
    backends = (options.backend,) if options.backend else BACKENDS
    with enabled():
        return check(array, limit, backends)


class _Seen(NamedTuple):
    """What one side has: enough to compare, whatever the size of the array."""

    traits: Traits
    digest: bytes

    @classmethod
    def of(cls, array: Array, axes: tuple[int, ...], limit: int) -> "_Seen":
        return cls(Traits.of(array), digest(array, axes, limit))

    def differing(self, other: "_Seen") -> list[str]:
        names = self.traits.differing(other.traits)
        return names if self.digest == other.digest else ["bytes", *names]


def _arrival(array: Array, axes: tuple[int, ...], limit: int) -> tuple[_Seen, Array]:
    """In the worker: say what arrived, and send it back."""
    return _Seen.of(array, axes, limit), array


def check(array: Array, limit: int, backends: tuple[str, ...] = BACKENDS) -> int:
    """Send every layout of `array` through workers and print what arrived.

    Parameters
    ----------
    array : ndarray
        A mapped array, contiguous in C or Fortran order.
    limit : int
        A layout of more bytes than this is compared in evenly spaced slices of
        about so many bytes together.
    backends : tuple of str
        The joblib backends to go through.

    Returns
    -------
    int
        0 if all arrived byte for byte with the same layout and flags, else 1.
    """
    sampled = {name for name, view in views_of(array) if view.nbytes > limit}
    traits = Traits.of(array)
    path = _printable(getattr(array, "filename", None))
    print(
        f"{path}: {traits.dtype} {traits.shape}, {array.nbytes:,} bytes, "
        f"flags {traits.flags}"
    )
    sent = failed = 0
    for backend in backends:
        print(f"\n{backend}, 2 workers")
        for name, view, difference in _through_workers(array, limit, backend):
            sent += 1
            failed += difference != ""
            compared = "same bytes, sampled" if name in sampled else "same bytes"
            flags = Traits.of(view).flags
            print(f"  {name:<35} {flags}  {difference or compared}", flush=True)
    print(
        f"\n{sent - failed} of {sent} arrived and came back with the same bytes, "
        "dtype, shape, strides and flags"
    )
    if sampled:
        print(
            f"sampled: larger than --limit, so about {limit:,} bytes were compared, "
            "in evenly spaced slices"
        )
    return 1 if failed else 0


def _through_workers(
    array: Array, limit: int, backend: str
) -> Iterator[tuple[str, Array, str]]:
    """Yield (expression, view, what is different or nothing)."""
    timeout = TIMEOUT + limit // SLOW_DISK
    with Parallel(n_jobs=2, backend=backend, timeout=timeout) as parallel:
        for name, view in views_of(array):
            axes = reading_order(view)
            sent = _Seen.of(view, axes, limit)
            try:
                # One layout a call: an error belongs to it, and the next goes on.
                [(arrived, result)] = parallel([delayed(_arrival)(view, axes, limit)])
            except Exception as error:
                # Whatever it is, it is this layout's result: shown, and counted.
                reason = _printable(error).strip().partition("\n")[0]
                yield name, view, f"{type(error).__name__}: {reason}"
                continue
            there = sent.differing(arrived)
            # The sender's own memory is what it was; other memory is looked at.
            if result.ctypes.data == view.ctypes.data:
                back = sent.traits.differing(Traits.of(result))
            else:
                back = sent.differing(_Seen.of(result, axes, limit))
            yield name, view, _in_words(there, back)


def _printable(thing: object) -> str:
    # It may name a file, and the bytes of a file name need not be text.
    return str(thing).encode(errors="backslashreplace").decode()


def _in_words(there: list[str], back: list[str]) -> str:
    ways = [("", there), ("as a result: ", back)]
    return "; ".join(f"{way}other {', '.join(names)}" for way, names in ways if names)
