"""Who owns a run's folder: the process that holds its lock, and the kernel knows whether it lives."""

import contextlib
import fcntl
import os
import socket
import time
import weakref
from pathlib import Path
from types import TracebackType

from runner.errors import ConfigError

NAME = ".lock"

# A probe (`owned`) holds the lock for microseconds; a claim that meets one tries again.
_ATTEMPTS, _SECONDS_BETWEEN = 5, 0.02


class FolderLock:
    """A claimed folder; released by `release`, by leaving the `with` block, or by the process's end."""

    def __init__(self, file: int) -> None:
        self._file = file
        _held.add(self)

    def release(self) -> None:
        """Give the folder back; a second call does nothing."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def __enter__(self) -> "FolderLock":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


_held: "weakref.WeakSet[FolderLock]" = weakref.WeakSet()


def _forget() -> None:
    """Close a forked child's copies: a data worker that outlives its parent must not keep the folder."""
    for lock in list(_held):
        lock.release()


os.register_at_fork(after_in_child=_forget)


def claim(folder: Path) -> FolderLock:
    """Take a run's folder for this process.

    Raises:
        ConfigError: another living process has it; the message names it.
        OSError: the folder is not there, or can't be written.
    """
    file = os.open(folder / NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    for _ in range(_ATTEMPTS):
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.ftruncate(file, 0)
            os.pwrite(file, f"process {os.getpid()} on {socket.gethostname()}".encode(), 0)
            return FolderLock(file)
        time.sleep(_SECONDS_BETWEEN)
    owner = os.pread(file, 200, 0).decode(errors="replace") or "another process"
    os.close(file)
    raise ConfigError(f"{folder} is in use by {owner}: wait for it to end, or stop it")


def owned(folder: Path) -> bool:
    """Tell whether a living process has the folder."""
    try:
        file = os.open(folder / NAME, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        # Shared: two processes that ask at the same time don't take each other for an owner.
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(file)
    return False
