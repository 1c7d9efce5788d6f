"""Who owns a run's folder: the process that holds its lock, and the kernel knows whether it lives."""

import contextlib
import fcntl
import os
import re
import socket
import time
import weakref
from pathlib import Path
from types import TracebackType

import psutil

from runner.errors import ConfigError

NAME = ".lock"

_SECONDS_BETWEEN, _PATIENCE, _PATIENCE_WITH_NAME = 0.02, 0.1, 2.0

# Completing the record of a killed run takes no longer; a resume waits for that.
DELIVERY, _PATIENCE_WITH_DELIVERY = "delivery process", 15.0


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


def lock(folder: Path, owner: str = "process", patient: bool = True) -> FolderLock:
    """Take a run's folder for this process.

    Args:
        folder: the run's.
        owner: what this process is, for whoever finds the folder taken.
        patient: wait for the delivery of a killed run.

    Raises:
        ConfigError: another living process has it, which the message names; or it may not be written or locked.
    """
    try:
        file = os.open(folder / NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise ConfigError(f"{folder} cannot be written ({error.strerror}): copy it to where it can be") from error
    asked = time.monotonic()
    try:
        while not _locked(file, fcntl.LOCK_EX):
            holder = os.pread(file, 200, 0).decode(errors="replace") or "another process"
            # A probe (`is_locked`) holds the lock for microseconds, the delivery of a killed run for seconds.
            patience = _PATIENCE_WITH_DELIVERY if patient and holder.startswith(DELIVERY) else _PATIENCE
            if time.monotonic() - asked > patience:
                os.close(file)
                raise ConfigError(f"{folder} is in use by {holder}: wait for it to end, or stop it")
            time.sleep(_SECONDS_BETWEEN)
    except OSError as error:
        os.close(file)
        with contextlib.suppress(OSError):  # of a folder that was just made, nothing is left
            (folder / NAME).unlink()
            folder.rmdir()
        raise _without_locks(folder, error) from error
    name = f"{owner} {os.getpid()} on {socket.gethostname()}".encode()
    os.pwrite(file, name, 0)
    os.ftruncate(file, len(name))
    return FolderLock(file)


def _locked(file: int, kind: int) -> bool:
    """Take a lock, unless another process has it."""
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _without_locks(folder: Path, error: OSError) -> ConfigError:
    """Lustre without `-o flock`, and some NFS, have none."""
    return ConfigError(
        f"{folder} is on a disk that cannot lock files ({error.strerror}): mount it with flock, or set RUNNER_OUTPUTS"
        " to a folder on another"
    )


def is_locked(folder: Path) -> bool:
    """Tell whether a living run has the folder; the process that completes a killed run's record is none."""
    try:
        file = os.open(folder / NAME, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    asked = time.monotonic()
    try:
        while True:
            # Shared: two processes that ask at the same time don't take each other for an owner.
            if _locked(file, fcntl.LOCK_SH):
                return False
            holder = os.pread(file, 200, 0).decode(errors="replace")
            if holder.startswith(DELIVERY):
                return False
            # The next holder of a dead run's folder may have the lock, and not have written its name yet.
            if _lives(holder) or time.monotonic() - asked > _PATIENCE_WITH_NAME:
                return True
            time.sleep(_SECONDS_BETWEEN)
    except OSError as error:
        raise _without_locks(folder, error) from error
    finally:
        os.close(file)


def is_in_use(folder: Path) -> bool:
    """Tell whether a living run has the folder, or will: the jobs of a living sweep are announced before they start."""
    return is_locked(folder) or is_locked(folder.parent)


def _lives(holder: str) -> bool:
    """Whether the process that a lock's text names is there; on another machine, that cannot be seen."""
    named = re.search(r"(\d+) on (.*)", holder)
    return named is not None and (named[2] != socket.gethostname() or psutil.pid_exists(int(named[1])))
