"""Standard output and standard error. This module alone decides what a failed write means, and redacts secrets.

A failed write must not stop a computation. If the reader is gone (`2>&1 | head`), the disk full, the terminal lost or
the stream closed, only the lines are lost. `Result` is for commands whose result goes to standard output: there a lost
line is an error.
"""

import contextlib
import errno
import io
import os
import select
import sys
import threading
import weakref
from collections.abc import Callable, Sequence
from typing import Any

from runner.util.redaction import find_unfinished_secret, redact, register_secret_arguments, register_secrets

BLOCK = 1 << 13
"""Size of a block, in characters, for a stream that is not a terminal."""


class OutputError(Exception):
    """The result of a command cannot be written to standard output."""


class ReaderGone(OutputError):
    """The reader of standard output has closed it, as in `... | head`."""


class _File(io.FileIO):
    """A file descriptor whose writes never raise.

    Attributes:
        failure: the error of the last write that failed.
    """

    failure: OSError | None = None

    def write(self, data: Any) -> int:
        """Write all data; after an error, drop the rest."""
        left = memoryview(data)
        while left:
            try:
                written = super().write(left)
            except OSError as error:
                self.failure = error
                break
            if written is None:  # a full non-blocking pipe: wait for its reader, as a blocking one does
                select.select([], [self], [])
            else:
                left = left[written:]
        return len(data)


class Output(io.TextIOWrapper):
    """A text stream that redacts secrets, and whose writes never raise.

    Args:
        number: the file descriptor; it is never closed.
        encoding: other characters are written as escapes.
        by_line: write each line at once, not in blocks.
    """

    def __init__(self, number: int, encoding: str = "utf-8", by_line: bool = True) -> None:
        self._file = _File(number, "w", closefd=False)
        super().__init__(io.BufferedWriter(self._file), encoding, "backslashreplace", write_through=True)
        self._by_line = by_line or self._file.isatty()
        self._pending = ""
        self._lock = threading.RLock()
        _outputs.add(self)

    @property
    def failure(self) -> OSError | None:
        """The error of the last write that failed."""
        return self._file.failure

    def write(self, text: str) -> int:
        """Write complete lines. The last, incomplete line is held back: a secret may be split over two writes."""
        with self._lock:
            self._pending += text
            if "\n" in text and (self._by_line or len(self._pending) > BLOCK):
                lines, _, self._pending = self._pending.rpartition("\n")
                self._write_redacted(f"{lines}\n")
                super().flush()
        return len(text)

    def flush(self) -> None:
        """Write the pending text, except for an end that may be the beginning of a secret."""
        with self._lock:
            end = find_unfinished_secret(self._pending) if self._pending else 0
            text, self._pending = self._pending[:end], self._pending[end:]
            self._write_redacted(text)
            super().flush()

    def finish(self) -> None:
        """Write all pending text, because no more will follow."""
        with self._lock:
            text, self._pending = self._pending, ""
            self._write_redacted(text)
            super().flush()

    def _write_redacted(self, text: str) -> None:
        if text:
            super().write(redact(text))

    def close(self) -> None:
        """Write all pending text, but keep the descriptor open: some libraries close the streams that they get."""
        self.finish()

    def reset_lock(self) -> None:
        """Replace the lock in a forked child, in which the thread that holds it does not exist."""
        self._lock = threading.RLock()


_outputs: "weakref.WeakSet[Output]" = weakref.WeakSet()


def _reset_locks() -> None:
    for output in list(_outputs):
        output.reset_lock()


os.register_at_fork(after_in_child=_reset_locks)


def protect(words: Sequence[str] = ()) -> None:
    """Replace the standard streams of this process by `Output`; a second call has no effect.

    Args:
        words: the arguments of the command line, which may name secrets.
    """
    register_secrets(os.environ)
    register_secret_arguments(words)
    closed = [number for number in (0, 1, 2) if not _is_open(number)]
    for number in closed:
        # Otherwise the next file that is opened gets this number, and anything that a library prints.
        null = os.open(os.devnull, os.O_RDWR)
        if null != number:
            os.dup2(null, number)
            os.close(null)
        os.set_inheritable(number, True)
    for number, name in ((1, "stdout"), (2, "stderr")):
        former = getattr(sys, name)
        if isinstance(former, Output):
            continue
        if former is not None:
            with contextlib.suppress(OSError, ValueError):
                former.flush()
        output = Output(number, getattr(former, "encoding", None) or "utf-8", by_line=name == "stderr")
        if number in closed:
            output._file.failure = OSError(errno.EBADF, "it is closed")
        setattr(sys, name, output)
        setattr(sys, f"__{name}__", output)


def finish_all() -> None:
    """Write all pending text of both streams, at the end of the process."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            stream.finish() if isinstance(stream, Output) else stream.flush()


def _is_open(number: int) -> bool:
    try:
        os.fstat(number)
    except OSError:
        return False
    return True


class Result:
    """Standard output for a command's result: `print(table, file=Result())`, then `finish`."""

    def write(self, text: str) -> int:
        """Write a part of the result.

        Raises:
            ReaderGone: the reader has closed standard output.
            OutputError: the write failed: a full disk, a closed stream.
        """
        return self._checked(lambda: sys.stdout.write(text))

    def finish(self) -> None:
        """Write all pending text.

        Raises:
            ReaderGone: see `write`.
            OutputError: see `write`.
        """
        self._checked(finish_stdout)

    def _checked(self, write: Callable[[], int | None]) -> int:
        failure: OSError | None
        count = 0
        try:
            count = write() or 0
            failure = sys.stdout.failure if isinstance(sys.stdout, Output) else None
        except OSError as error:
            failure = error
        if isinstance(failure, BrokenPipeError):
            raise ReaderGone("the reader has closed standard output") from failure
        if failure is not None:
            raise OutputError(f"standard output cannot be written: {failure.strerror}") from failure
        return count


def finish_stdout() -> None:
    """Write all pending text of standard output."""
    if isinstance(sys.stdout, Output):
        sys.stdout.finish()
    else:
        sys.stdout.flush()


def print_result(*lines: str) -> None:
    """Print lines as a command's result, and write all pending text.

    Raises:
        ReaderGone: see `Result.write`.
        OutputError: see `Result.write`.
    """
    result = Result()
    if lines:
        print(*lines, sep="\n", file=result)
    result.finish()
