"""Waiting for a study's storage that goes away for a while: which errors mean that, and how long to wait."""

import errno
import logging
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from runner.errors import Problem, Topic, first_line
from runner.rundir.folders import shell_path
from runner.tracking.trouble import password_refused
from runner.util.redaction import redact
from runner.util.stopping import INTERRUPT

T = TypeVar("T")

log = logging.getLogger("runner")

RETRY_SECONDS = 1.0
"""Between two attempts: a database restarts within seconds, and an attempt is cheap."""

_FILE_ERRORS = (errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.ESTALE, errno.EROFS, errno.ENOLCK, errno.ETIMEDOUT)
"""Errors of a disk or a network file system that is full, or away."""

_PERMANENT = (
    "no such table", "no such column", "does not exist", "Unknown database", "not a database", "no pg_hba.conf entry",
)  # fmt: skip
"""Texts of operational errors that waiting does not fix."""

_WRONG_ADDRESS = (
    "unable to open database file",
    "not known",
    "failed to resolve host",
    "could not translate host name",
    "nodename nor servname",
    "No address associated",
    "Unknown MySQL server host",
)
"""Texts of an address that was probably never right; of a study that was open, they mean an outage."""

_STARTING = ("the database system is", "too many connections", "too many clients")
"""Texts of a database that answers, and will take connections soon: PostgreSQL starts, recovers or shuts down."""


class Away(Exception):
    """The storage cannot be reached at the moment; the message says why in one line."""


def away(error: BaseException | None) -> str | None:
    """Return why a storage cannot be reached, if an error means that; None for any other error.

    Args:
        error: of Optuna, which may wrap one of SQLAlchemy or of the file system.
    """
    while error is not None:
        if isinstance(error, OSError) and error.errno in _FILE_ERRORS:
            return error.strerror
        if isinstance(error, PoolTimeoutError):
            return first_line(error)
        if isinstance(error, DBAPIError):
            lost = error.connection_invalidated or isinstance(error, OperationalError | InterfaceError)
            text = str(error.orig)
            if not lost or password_refused(error, "") or any(sign in text for sign in _PERMANENT):
                return None
            return redact(text.strip().split("\n")[0])
        error = error.__cause__ or error.__context__
    return None


def check_timeout(value: Any) -> list[Problem]:
    """Check `hydra.sweeper.storage_timeout`."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if is_number and 0 <= value < math.inf:
        return []
    key = "hydra.sweeper.storage_timeout"
    topic: Topic = "range" if is_number else "type"
    return [Problem(key, f"{key}={value} is not a number of seconds", f"write {key}=300; 0 does not wait", topic=topic)]


def wait_until_open(action: Callable[[], T], seconds: float, known: bool) -> T:
    """Use a storage that may be away before the search has begun.

    Args:
        action: uses the storage.
        seconds: how long to wait.
        known: whether a search has used the address before. If not, only a database that answers is waited for: a
            refused connection is more likely a mistyped address.

    Raises:
        Exception: that of the action, at once if waiting does not help, or after the time.
    """
    deadline, is_announced = time.monotonic() + seconds, False
    while True:
        try:
            return action()
        except Exception as error:
            reason = away(error)
            waits = known and reason is not None and not any(sign in str(error) for sign in _WRONG_ADDRESS)
            waits = waits or (reason is not None and any(sign in str(error) for sign in _STARTING))
            if not waits or time.monotonic() >= deadline:
                raise
            if not is_announced:
                is_announced = True
                log.warning(
                    "the study's storage is away (%s): waiting for it, for at most hydra.sweeper.storage_timeout=%g s",
                    reason,
                    seconds,
                )
        INTERRUPT.check()
        time.sleep(RETRY_SECONDS)
        INTERRUPT.check()


class Patience:
    """Waits for a storage without blocking: one attempt a second.

    Args:
        seconds: how long the storage may be away; 0 does not wait.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.reason = ""
        self._since: float | None = None
        self._next = 0.0

    @property
    def away(self) -> bool:
        """Whether the last attempt failed."""
        return self._since is not None

    @property
    def over(self) -> bool:
        """Whether the storage has been away for too long."""
        return self._since is not None and time.monotonic() - self._since >= self.seconds

    @property
    def due(self) -> bool:
        """Whether it is time for an attempt."""
        return time.monotonic() >= self._next

    @contextmanager
    def attempt(self) -> Iterator[None]:
        """Guard a use of the storage, and note whether it was away.

        Raises:
            Away: it cannot be reached.
        """
        began = time.monotonic()
        try:
            yield
        except Exception as error:
            reason = away(error)
            if reason is None:
                raise
            self.reason = reason
            self._since = began if self._since is None else self._since
            ended = time.monotonic()
            self._next = ended + max(RETRY_SECONDS, ended - began)  # at least half of the time goes to the jobs
            raise Away(reason) from error
        self._since, self._next = None, 0.0


class OutageLog:
    """Logs an outage of the storage: its start, its end, and that the search gives up.

    Args:
        patience: that waits for the storage.

    Attributes:
        has_given_up: whether the storage has been away for too long; stays true.
    """

    def __init__(self, patience: Patience) -> None:
        self._patience = patience
        self._is_announced = False
        self.has_given_up = False

    def log(self, sweep: Path) -> None:
        """Log each change once.

        Args:
            sweep: the folder by which it can be resumed.
        """
        away, reason, seconds = self._patience.away, self._patience.reason, self._patience.seconds
        if away and not self._is_announced and seconds:
            self._is_announced = True
            log.warning(
                "the study's storage is away (%s): the jobs continue, and their results wait for it, for at most"
                " hydra.sweeper.storage_timeout=%g s",
                reason,
                seconds,
            )
        elif not away and self._is_announced:
            self._is_announced = False
            log.info("the study's storage is back: it has all results")
        if self._patience.over and not self.has_given_up:
            self.has_given_up = True
            log.error(
                "error: the study's storage is away (%s), for longer than hydra.sweeper.storage_timeout=%g s: no more"
                " trials are started; when it is back, resume with: python -m runner --multirun sweep.resume=%s",
                reason,
                seconds,
                shell_path(sweep),
            )
