"""Notifications of how a run or a sweep ends: `tracking.notify`. A separate process sends them, also after a kill."""

import contextlib
import json
import logging
import select
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from runner.config.notify import KEY
from runner.errors import ConfigError, Problem, describe_error
from runner.tracking.beside import start_beside
from runner.util.redaction import redact

log = logging.getLogger("runner")

SECONDS_TO_SEND = 5.0
"""How long the end of a run waits for its notification; the process that sends it does not give up then."""

SECONDS_TO_START = 60.0

NOT_SENT = "the notification is not sent: the address in ${oc.env:%s} does not take it"


class Notifier:
    """Tells the addresses in some environment variables how a run or a sweep ends, once.

    A process of its own sends it, which the pipe to this one tells when this one is killed. It does not wait for the
    upload to MLflow, and needs no tracking.

    Args:
        names: of the environment variables.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self._names = list(names)
        self._folder: Path | None = None
        self._ended_at: float | None = None
        self._start()

    def _start(self) -> None:
        # Nothing of what apprise or its libraries print is shown: it may hold an address.
        self._process = start_beside("runner.tracking.notify_process", self._names, quiet=True)

    def check(self) -> None:
        """Check that apprise can use each address.

        Raises:
            ConfigError: it cannot; the addresses are not in the message.
        """
        answer = self._read(SECONDS_TO_START)
        if answer is None:
            text = f"{KEY}: apprise cannot be imported"
            raise ConfigError(Problem(KEY, text, "install it with: pip install apprise", topic="unavailable"))
        text = f"{KEY}: apprise knows no service for the address in the environment variable"
        instead = "set it to one such as json://<host>/<path>, mailto://<user>:<password>@<host> or slack://<tokens>"
        if answer["unknown"]:
            raise ConfigError(*(Problem(KEY, f"{text} {name}", instead, topic="type") for name in answer["unknown"]))

    @contextlib.contextmanager
    def watching(self, folder: Path) -> Iterator[None]:
        """Notify of the end of what runs in a folder: as `end` says, or of an exception, or of this process's death."""
        self._folder = folder
        self._send(folder=str(folder))
        try:
            yield
        except KeyboardInterrupt:
            self.end("KILLED", ["interrupted"])
            raise
        except BaseException as error:
            self.end("FAILED", [f"error: {redact(describe_error(error))}"])
            raise

    def end(self, status: str, lines: Sequence[str] = ()) -> None:
        """Send how it has ended; only the first call counts.

        Args:
            status: FINISHED, FAILED or KILLED.
            lines: that follow the first one of the message: what went wrong, or which job is the best.
        """
        if self._folder is None:
            return
        if self._process.poll() is not None:  # something has killed it
            self._start()
            self._read(SECONDS_TO_START)
            self._send(folder=str(self._folder))
        self._folder, self._ended_at = None, time.monotonic()
        self._send(status=status, lines=list(lines))

    def close(self) -> None:
        """Wait until the notification is sent, at most 5 s since `end`, and warn if that has failed."""
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        if self._ended_at is None:
            return
        left, self._ended_at = self._ended_at + SECONDS_TO_SEND - time.monotonic(), None
        answer = self._read(max(0.0, left))
        if answer is not None:
            for name in answer["failed"]:
                log.warning(NOT_SENT, name)
        elif self._process.poll() is not None:
            log.warning("the notification is not sent: its process has died")

    def _send(self, **message: Any) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):  # it has died
            self._process.stdin.write(json.dumps(message) + "\n")
            self._process.stdin.flush()

    def _read(self, seconds: float) -> dict[str, Any] | None:
        """Read its next answer; None if it is late, or has died."""
        assert self._process.stdout is not None
        if not select.select([self._process.stdout], [], [], seconds)[0]:
            return None
        line = self._process.stdout.readline()
        return json.loads(line) if line else None
