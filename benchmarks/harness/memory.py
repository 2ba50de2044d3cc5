"""What memory a call takes, as this process sees it."""

import ctypes
import os
import threading
from contextlib import suppress
from pathlib import Path
from types import TracebackType


def status(field: str) -> float:
    """A size in /proc/self/status, in MB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == field:
            return int(value.split()[0]) * 1024 / 1e6
    raise KeyError(field)


def forget_peak() -> None:
    """Let the peak of resident memory (VmHWM) begin anew, without what is free."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:  # glibc
        trim(0)
    Path("/proc/self/clear_refs").write_text("5")


def mapped_files() -> float:
    """Size of the memory files that are mapped here, in MB.

    A page of a private map that was written to is a copy; the file has its own
    still, which counts as nobody's resident memory.
    """
    total = 0
    for line in Path("/proc/self/maps").read_text().splitlines():
        if "/memfd:" in line:
            low, _, high = line.split()[0].partition("-")
            total += int(high, 16) - int(low, 16)
    return total / 1e6


def peak() -> float:
    """The most that this process took since `forget_peak`, in MB.

    That is the peak of what was resident; or what is its own now and the memory
    files it has mapped, if that is more.
    """
    own = status("RssAnon") + status("RssFile")
    return max(status("VmHWM"), own + mapped_files())


def shared() -> float:
    """What this process has in shared memory for its workers, in MB.

    joblib's dumps, and memory files that are open here.
    """
    total = 0
    for folder in Path("/dev/shm").glob(f"joblib_memmapping_folder_{os.getpid()}_*"):
        for path in folder.rglob("*"):
            with suppress(FileNotFoundError):  # a dump that is deleted just now
                total += path.stat().st_blocks * 512
    for number in os.listdir("/proc/self/fd"):
        with suppress(OSError):
            if os.readlink(f"/proc/self/fd/{number}").startswith("/memfd:"):
                total += os.stat(f"/proc/self/fd/{number}").st_blocks * 512
    return total / 1e6


class SharedPeak:
    """Looks at `shared` every 20 ms, in a thread, while the block runs."""

    def __enter__(self) -> "SharedPeak":
        self.megabytes = 0.0
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._end.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._end.wait(0.02):
            self.megabytes = max(self.megabytes, shared())
