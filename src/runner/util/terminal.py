"""Logging: plain lines on standard error, which a progress bar does not disturb, and in `run.log`."""

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import TextIOWrapper
from pathlib import Path

from tqdm import tqdm

from runner.util import events
from runner.util.events import LineHandler
from runner.util.files import PRIVATE, open_to_append
from runner.util.redaction import redact

log = logging.getLogger("runner")

TRACKING, RESUME, STORE, EPOCH = "tracking", "resume", "store", "epoch"
"""Topics of log records: where a run is logged, how to resume it, whether the store can be reached; of an epoch."""


class _Redacted(logging.Formatter):
    """A formatter that redacts lines and tracebacks."""

    def format(self, record: logging.LogRecord) -> str:
        return redact(super().format(record))


class _Terminal(logging.Handler):
    """A handler that writes lines to standard error above the progress bar."""

    def emit(self, record: logging.LogRecord) -> None:
        tqdm.write(self.format(record), file=sys.stderr)


def configure_logging(quiet: bool = False) -> None:
    """Send runner's log to standard error, or to who listens; with `quiet`, only warnings and errors."""
    log.handlers = [handler for handler in log.handlers if not isinstance(handler, _Terminal | LineHandler)]
    terminal = (LineHandler if events.is_heard() else _Terminal)(logging.WARNING if quiet else logging.INFO)
    terminal.setFormatter(_Redacted())
    log.addHandler(terminal)
    log.setLevel(logging.DEBUG)
    log.propagate = False


def can_redraw_lines() -> bool:
    """Return whether the terminal can redraw several lines. A notebook cannot, although its `!` has a terminal."""
    return "JPY_PARENT_PID" not in os.environ and os.environ.get("TERM") != "dumb"


@contextmanager
def show_waiting(text: str) -> Iterator[None]:
    """Show a text within a block if standard error is a terminal, and remove it afterwards."""
    if not sys.stderr.isatty():
        yield
        return
    print(text, end="", file=sys.stderr, flush=True)
    try:
        yield
    finally:
        # Overwrite it with spaces: a notebook prints the escape sequence that clears a line, or ignores it.
        print(f"\r{' ' * len(text)}\r", end="", file=sys.stderr, flush=True)


def about(topic: str) -> dict[str, str]:
    """Return the `extra` argument that gives a log record a topic: `log.info(..., extra=about(RESUME))`."""
    return {"topic": topic}


@contextmanager
def without_topics(*topics: str) -> Iterator[None]:
    """Drop the log records of these topics within a block, on the terminal and in `run.log`."""

    def passes(record: logging.LogRecord) -> bool:
        return getattr(record, "topic", None) not in topics

    log.addFilter(passes)
    try:
        yield
    finally:
        log.removeFilter(passes)


class _LogFile(logging.FileHandler):
    """A log file whose write errors are ignored: on a full disk a line is lost, and training continues."""

    def _open(self) -> TextIOWrapper:
        def opener(path: str, _flags: int) -> int:
            return open_to_append(Path(path), PRIVATE)

        return open(self.baseFilename, "a", encoding=self.encoding, errors=self.errors, opener=opener)

    def handleError(self, record: logging.LogRecord) -> None: ...  # noqa: N802 - logging's name


class LogFile:
    """A file for the log records of some blocks, `with log_file: ...`, with their times.

    Args:
        path: of the file, to which is appended.

    Raises:
        OSError: the file cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self._handler = _LogFile(path, encoding="utf-8", errors="backslashreplace")
        self._handler.setFormatter(_Redacted("%(asctime)s %(levelname)-7s %(message)s"))

    def __enter__(self) -> None:
        log.addHandler(self._handler)

    def __exit__(self, *_: object) -> None:
        log.removeHandler(self._handler)

    def close(self) -> None:
        """Close the file."""
        with suppress(OSError):
            self._handler.close()


@contextmanager
def log_to_file(path: Path) -> Iterator[None]:
    """Write log records to a file too, with their times. Only the file has tracebacks.

    Raises:
        OSError: the file cannot be opened.
    """
    file = LogFile(path)
    try:
        with file:
            yield
    finally:
        file.close()
