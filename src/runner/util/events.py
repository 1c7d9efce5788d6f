"""Messages of a run or a sweep to the notebook or script that started it, from the same process or from another.

A message is a mapping of plain values, one per line of JSON in a pipe. Its `kind` says what else is in it:

| kind | what else |
|---|---|
| `line` | of the log: `text`, `level`, `topic` |
| `progress` | `done` of `total` (a share of one is in it), their `unit`, the newest `metrics` |
| `folder` | of the run or the sweep, once it exists: `path` |
| `problems` | why nothing was started: for each `key`, `text`, `suggestion`, `topic` |
"""

import json
import logging
import os
import signal
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from runner.errors import Problem, as_problem
from runner.util.redaction import redact
from runner.util.stopping import end_with_parent

VARIABLE = "RUNNER_EVENTS"
"""The environment variable with the file descriptor of the pipe; for a rank of a run, its path."""

Receiver = Callable[[dict[str, Any]], None]

_receivers: list[Receiver] = []
"""The last one gets the messages; none: nobody listens."""


def is_heard() -> bool:
    """Return whether anybody listens."""
    return bool(_receivers)


def send(kind: str, **content: Any) -> None:
    """Send a message, if anybody listens."""
    if _receivers:
        _receivers[-1]({"kind": kind, **content})


class Listening:
    """Passes the messages within a block to a receiver in this process."""

    def __init__(self, receiver: Receiver) -> None:
        self._receiver = receiver

    def __enter__(self) -> None:
        _receivers.append(self._receiver)

    def __exit__(self, *_: object) -> None:
        _receivers.pop()


_pipes: list[int] = []


def connect(rank: int = 0) -> None:
    """Send the messages of this process to the one that started it, if that has named a pipe.

    It is then asked to stop when that process dies, as one is whose terminal is closed.

    Args:
        rank: of several; the others than 0 say nothing.
    """
    named = os.environ.pop(VARIABLE, None)
    if named is None or rank:
        return
    try:
        pipe = int(named) if named.isdecimal() else os.open(named, os.O_WRONLY | os.O_CLOEXEC)
        os.set_inheritable(pipe, False)
    except OSError:
        return
    end_with_parent(signal.SIGTERM)
    _pipes.append(pipe)
    writing = threading.Lock()

    def write(message: dict[str, Any]) -> None:
        left = f"{json.dumps(message)}\n".encode()
        with writing, suppress(OSError):  # the notebook is gone
            while left:
                left = left[os.write(pipe, left) :]

    _receivers.append(write)


def name_pipe() -> None:
    """Name the pipe to the ranks that this process starts; only Linux has a path for it."""
    if _pipes:
        os.environ[VARIABLE] = f"/proc/{os.getpid()}/fd/{_pipes[-1]}"


class LineHandler(logging.Handler):
    """A log handler that sends lines."""

    def emit(self, record: logging.LogRecord) -> None:
        """Send the line of a record."""
        send("line", text=self.format(record), level=record.levelno, topic=getattr(record, "topic", None))


def send_problems(problems: Sequence[Problem | str]) -> None:
    """Send what is wrong, without secrets."""
    found = [as_problem(problem) for problem in problems]
    send(
        "problems",
        problems=[
            {"key": p.key, "text": redact(p.text), "suggestion": redact(p.suggestion), "topic": p.topic} for p in found
        ],
    )


def read_problems(message: Mapping[str, Any]) -> list[Problem]:
    """Return the problems of such a message."""
    return [Problem(p["key"], p["text"], p["suggestion"], topic=p["topic"]) for p in message["problems"]]
