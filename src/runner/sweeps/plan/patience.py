"""A study whose storage goes away for a time: which errors say so, and how long it is waited for."""

import errno
import time
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from runner.errors import first_line
from runner.tracking.store import password_refused
from runner.util.uri import redact

RETRY_SECONDS = 1.0
"""Between two attempts: a database that restarts is back within some seconds, and an attempt at one costs little."""

_OF_A_FILE = (errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.ESTALE, errno.EROFS, errno.ENOLCK, errno.ETIMEDOUT)
"""What a disk or a network file system says that is full, or away."""

_FOR_GOOD = ("no such table", "no such column", "does not exist", "Unknown database", "not a database")
"""What drivers report as an operational error as well, and waiting does not help."""


class Away(Exception):
    """The storage cannot be reached at the moment; the message says why, in one line."""


def away(error: BaseException | None) -> str | None:
    """Why a storage cannot be reached, if that is what an error says; None for any other error.

    Args:
        error: of Optuna, which may have wrapped that of SQLAlchemy, or of the file system.
    """
    while error is not None:
        if isinstance(error, OSError) and error.errno in _OF_A_FILE:
            return error.strerror
        if isinstance(error, PoolTimeoutError):
            return first_line(error)
        if isinstance(error, DBAPIError):
            lost = error.connection_invalidated or isinstance(error, OperationalError | InterfaceError)
            text = str(error.orig)
            if not lost or password_refused(error, "") or any(sign in text for sign in _FOR_GOOD):
                return None
            return redact(text.strip().split("\n")[0])
        error = error.__cause__ or error.__context__
    return None


class Patience:
    """Waits for a storage without holding anybody up: one attempt a second, for so many seconds.

    Args:
        seconds: how long it may be away; 0 does not wait.
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
        """Talk to the storage.

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
            self._next = ended + max(RETRY_SECONDS, ended - began)  # the jobs are looked after half of the time
            raise Away(reason) from error
        self._since, self._next = None, 0.0
