"""Lock a run's folder for one process. The kernel releases the lock when the process ends."""

import contextlib
import errno
import fcntl
import os
import re
import socket
import stat
import time
import weakref
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

import psutil

from runner.errors import ConfigError, Problem
from runner.rundir import layout
from runner.util.files import remove_leftovers

NAME = layout.LOCK

_SECONDS_BETWEEN, _PATIENCE, _PATIENCE_WITH_NAME = 0.02, 0.1, 2.0

# The upload of a killed run takes less than this; a resume waits for it.
DELIVERY, _PATIENCE_WITH_DELIVERY = "delivery process", 15.0

# Creating an MLflow run takes less, unless the store is away; who has waited longer searches for the run as well.
_SECONDS_FOR_A_TURN = 10.0

_HOLDER = re.compile(r"[\w ]+ (\d{1,9}) on (.*)")


class FolderLock:
    """A locked folder; released by `release`, by leaving the `with` block, or by the end of the process."""

    def __init__(self, file: int) -> None:
        self._file = file
        _held.add(self)

    def release(self) -> None:
        """Release the lock; a second call does nothing."""
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
    """Close the copies in a forked child: a data worker that outlives its parent must not hold the lock."""
    for lock in list(_held):
        lock.release()


os.register_at_fork(after_in_child=_forget)


def lock(folder: Path, owner: str = "process", patient: bool = True) -> FolderLock:
    """Lock a run's folder for this process.

    Args:
        folder: the run's folder.
        owner: the kind of this process, for the error in another one.
        patient: whether to wait for the upload of a killed run.

    Raises:
        ConfigError: another process has the lock, and the error names it; or the folder cannot be written or locked.
    """
    try:
        file = _open(folder, os.O_RDWR | os.O_CREAT)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise _not_a_lock(folder) from error
        text = f"{folder} is not writable ({error.strerror})"
        raise ConfigError(Problem("", text, "copy it to a folder that is writable", topic="file")) from error
    asked = time.monotonic()
    try:
        while not _locked(file, fcntl.LOCK_EX):
            holder = os.pread(file, 200, 0).decode(errors="replace") or "another process"
            # A probe (`is_locked`) holds the lock for microseconds, the upload of a killed run for seconds.
            patience = _PATIENCE_WITH_DELIVERY if patient and holder.startswith(DELIVERY) else _PATIENCE
            if time.monotonic() - asked > patience:
                os.close(file)
                text = f"{folder} is in use by {holder}"
                raise ConfigError(Problem("", text, "wait for it to end, or stop it", topic="run"))
            time.sleep(_SECONDS_BETWEEN)
    except OSError as error:
        os.close(file)
        with contextlib.suppress(OSError):  # remove a folder that was just made
            (folder / NAME).unlink()
            folder.rmdir()
        raise _without_locks(folder, error) from error
    if (found := os.pread(file, 200, 0).decode(errors="replace")) and not _HOLDER.fullmatch(found):
        os.close(file)
        raise _not_a_lock(folder)
    name = f"{owner} {os.getpid()} on {socket.gethostname()}".encode()
    os.pwrite(file, name, 0)
    os.ftruncate(file, len(name))
    for place in (folder, folder / layout.TRACKING):
        remove_leftovers(place)
    return FolderLock(file)


def _open(folder: Path, flags: int) -> int:
    """Open the lock's file. A link is not followed, and a FIFO is not waited for: others may have put it there.

    Raises:
        OSError: it cannot be opened; with ELOOP if it is not a regular file.
    """
    file = os.open(folder / NAME, flags | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, 0o644)
    if not stat.S_ISREG(os.fstat(file).st_mode):
        os.close(file)
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
    return file


def _not_a_lock(folder: Path) -> ConfigError:
    return ConfigError(Problem("", f"{folder / NAME} is not a lock of runner", "remove it", topic="file"))


def _locked(file: int, kind: int) -> bool:
    """Try to take the lock; return whether it was taken."""
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _without_locks(folder: Path, error: OSError) -> ConfigError:
    """Describe a file system without locks: Lustre without `-o flock`, and some NFS."""
    text = f"{folder} is on a file system that cannot lock files ({error.strerror})"
    suggestion = "mount it with flock, or set RUNNER_OUTPUTS to a folder on another disk"
    return ConfigError(Problem("", text, suggestion, topic="unavailable"))


def is_locked(folder: Path) -> bool:
    """Whether a running run has the folder; a process that uploads a killed run does not count."""
    try:
        file = _open(folder, os.O_RDONLY)
    except OSError:  # there is none, or it is not a run's, or a folder that this user may not enter
        return False
    asked = time.monotonic()
    try:
        while True:
            # A shared lock: two processes that probe at the same time do not mistake each other for an owner.
            if _locked(file, fcntl.LOCK_SH):
                return False
            holder = os.pread(file, 200, 0).decode(errors="replace")
            if holder.startswith(DELIVERY):
                return False
            # The next holder of a dead run's folder may have the lock before it has written its name.
            if _lives(holder) or time.monotonic() - asked > _PATIENCE_WITH_NAME:
                return True
            time.sleep(_SECONDS_BETWEEN)
    except OSError as error:
        raise _without_locks(folder, error) from error
    finally:
        os.close(file)


def holder(folder: Path) -> tuple[int, str] | None:
    """Return the number and the machine of the process that has a folder; None if none has."""
    if not is_locked(folder):
        return None
    with contextlib.suppress(OSError):
        if named := _HOLDER.fullmatch((folder / NAME).read_text(errors="replace")):
            return int(named[1]), named[2]
    return None


def is_in_use(folder: Path) -> bool:
    """Whether a running run has the folder, or will have it: a running sweep creates its jobs before they start."""
    return is_locked(folder) or is_locked(folder.parent)


@contextlib.contextmanager
def one_at_a_time(folder: Path) -> Iterator[None]:
    """Wait while another process has its turn with a folder; it is not the lock of a run (see `lock`).

    The folder itself is locked, so that no file is left in it. NFS refuses that: there nobody waits.
    """
    with contextlib.ExitStack() as closing:
        with contextlib.suppress(OSError):
            file = os.open(folder, os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY | os.O_NOFOLLOW)
            closing.callback(os.close, file)
            deadline = time.monotonic() + _SECONDS_FOR_A_TURN
            while not _locked(file, fcntl.LOCK_EX) and time.monotonic() < deadline:
                time.sleep(_SECONDS_BETWEEN)
        yield


def _lives(holder: str) -> bool:
    """Whether the process that a lock's text names exists. On another machine that cannot be checked: True."""
    named = _HOLDER.fullmatch(holder)
    return named is not None and (named[2] != socket.gethostname() or psutil.pid_exists(int(named[1])))
