"""What the person sees, and `run.log`: plain lines on standard error, under a progress bar if it is a terminal."""

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tqdm import tqdm

from runner.util.uri import redact

log = logging.getLogger("runner")

TRACKING, RESUME = "tracking", "resume"
"""Topics of lines: where a run is logged, and how to resume it."""


class _Redacted(logging.Formatter):
    """No line, and no traceback, gives a secret away."""

    def format(self, record: logging.LogRecord) -> str:
        return redact(super().format(record))


class _Terminal(logging.Handler):
    """Lines on standard error that do not tear a progress bar apart."""

    def emit(self, record: logging.LogRecord) -> None:
        tqdm.write(self.format(record), file=sys.stderr)


def configure_logging(quiet: bool = False) -> None:
    """Send runner's lines to standard error; of warnings, with `quiet`, only those."""
    log.handlers = [handler for handler in log.handlers if not isinstance(handler, _Terminal)]
    terminal = _Terminal(logging.WARNING if quiet else logging.INFO)
    terminal.setFormatter(_Redacted())
    log.addHandler(terminal)
    log.setLevel(logging.DEBUG)
    log.propagate = False


def can_redraw_lines() -> bool:
    """Whether a terminal can redraw several lines; the page of a notebook, whose `!` has a terminal, cannot."""
    return "JPY_PARENT_PID" not in os.environ and os.environ.get("TERM") != "dumb"


@contextmanager
def show_waiting(text: str) -> Iterator[None]:
    """Say on a terminal what is waited for, as long as it is."""
    if not sys.stderr.isatty():
        yield
        return
    print(text, end="", file=sys.stderr, flush=True)
    try:
        yield
    finally:
        # Over it and back: the page of a notebook shows the code that clears a line, or leaves what was there.
        print(f"\r{' ' * len(text)}\r", end="", file=sys.stderr, flush=True)


def about(topic: str) -> dict[str, str]:
    """What marks a log record as one of a topic: `log.info(..., extra=about(RESUME))`."""
    return {"topic": topic}


@contextmanager
def without_topics(*topics: str) -> Iterator[None]:
    """Leave out the lines of these topics, on the terminal and in `run.log`."""

    def wanted(record: logging.LogRecord) -> bool:
        return getattr(record, "topic", None) not in topics

    log.addFilter(wanted)
    try:
        yield
    finally:
        log.removeFilter(wanted)


class _LogFile(logging.FileHandler):
    """A file that may be on a disk that is full: a line that it does not take is lost, and training goes on."""

    def handleError(self, record: logging.LogRecord) -> None: ...  # noqa: N802 - logging's name


@contextmanager
def log_to_file(path: Path) -> Iterator[None]:
    """Keep every line in a file too, with its time; tracebacks stand only there.

    Raises:
        OSError: the file cannot be opened.
    """
    handler = _LogFile(path, encoding="utf-8", errors="backslashreplace")
    handler.setFormatter(_Redacted("%(asctime)s %(levelname)-7s %(message)s"))
    log.addHandler(handler)
    try:
        yield
    finally:
        log.removeHandler(handler)
        with suppress(OSError):
            handler.close()
