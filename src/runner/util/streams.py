"""Standard output and error of a process: the one place that decides what a failed write means, and hides secrets.

What is shown must not decide what is computed. A reader that has gone (`2>&1 | head`), a full disk, a lost terminal
or a closed stream costs the lines that it does not take, and nothing else. `Result` is for the commands whose result
goes to standard output: there a lost line is an error.
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

from runner.util.uri import find_unfinished_secret, redact, register_secret_arguments, register_secrets

BLOCK = 1 << 13
"""Characters that are written at once where nobody watches them come."""


class OutputError(Exception):
    """The result of a command cannot be written to standard output."""


class ReaderGone(OutputError):
    """Who reads standard output has what it wanted: `... | head`."""


class _File(io.FileIO):
    """A file descriptor that takes everything; `failure` is the last error of a write that it did not."""

    failure: OSError | None = None

    def write(self, data: Any) -> int:
        """Write all of it, or drop what is left."""
        left = memoryview(data)
        while left:
            try:
                written = super().write(left)
            except OSError as error:
                self.failure = error
                break
            if written is None:  # a pipe that does not block is full: wait for its reader, as other pipes do
                select.select([], [self], [])
            else:
                left = left[written:]
        return len(data)


class Output(io.TextIOWrapper):
    """A text stream that never fails, and lets no secret through.

    Args:
        number: the file descriptor, which stays open.
        encoding: characters that it lacks are written as escapes.
        at_once: each line as it comes, and not in blocks.
    """

    def __init__(self, number: int, encoding: str = "utf-8", at_once: bool = True) -> None:
        self._file = _File(number, "w", closefd=False)
        super().__init__(io.BufferedWriter(self._file), encoding, "backslashreplace", write_through=True)
        self._at_once = at_once or self._file.isatty()
        self._waiting = ""
        self._lock = threading.RLock()
        _made.add(self)

    @property
    def failure(self) -> OSError | None:
        """The last error of a write."""
        return self._file.failure

    def write(self, text: str) -> int:
        """Take whole lines; the last one waits for its end, or for `flush`: a secret may come in two writes."""
        with self._lock:
            self._waiting += text
            if "\n" in text and (self._at_once or len(self._waiting) > BLOCK):
                lines, _, self._waiting = self._waiting.rpartition("\n")
                self._pass_on(f"{lines}\n")
                super().flush()
        return len(text)

    def flush(self) -> None:
        """Write what waits, but for the beginning of what may be a secret."""
        with self._lock:
            end = find_unfinished_secret(self._waiting) if self._waiting else 0
            text, self._waiting = self._waiting[:end], self._waiting[end:]
            self._pass_on(text)
            super().flush()

    def finish(self) -> None:
        """Write everything: nothing more comes."""
        with self._lock:
            text, self._waiting = self._waiting, ""
            self._pass_on(text)
            super().flush()

    def _pass_on(self, text: str) -> None:
        if text:
            super().write(redact(text))

    def close(self) -> None:
        """Leave it open, as the process's other streams are: libraries close what they are given."""
        self.finish()

    def forget_lock(self) -> None:
        """In a forked child: the thread that has the lock is not in it."""
        self._lock = threading.RLock()


_made: "weakref.WeakSet[Output]" = weakref.WeakSet()


def _forget_locks() -> None:
    for output in list(_made):
        output.forget_lock()


os.register_at_fork(after_in_child=_forget_locks)


def protect(words: Sequence[str] = ()) -> None:
    """Let this process write to streams that cannot fail; a second call does nothing.

    Args:
        words: of the command line, which may name secrets.
    """
    register_secrets(os.environ)
    register_secret_arguments(words)
    closed = [number for number in (0, 1, 2) if not _is_open(number)]
    for number in closed:
        # Or the next file that is opened gets the number, and whatever a library prints is written into it.
        nowhere = os.open(os.devnull, os.O_RDWR)
        if nowhere != number:
            os.dup2(nowhere, number)
            os.close(nowhere)
        os.set_inheritable(number, True)
    for number, name in ((1, "stdout"), (2, "stderr")):
        former = getattr(sys, name)
        if isinstance(former, Output):
            continue
        if former is not None:
            with contextlib.suppress(OSError, ValueError):
                former.flush()
        output = Output(number, getattr(former, "encoding", None) or "utf-8", at_once=name == "stderr")
        if number in closed:
            output._file.failure = OSError(errno.EBADF, "it is closed")
        setattr(sys, name, output)
        setattr(sys, f"__{name}__", output)


def finish_all() -> None:
    """Write what waits in both streams: the process ends."""
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
    """Standard output as the place of a command's result: `print(table, file=Result())`, and `finish` at its end."""

    def write(self, text: str) -> int:
        """Write a part of it.

        Raises:
            ReaderGone: nobody reads any more.
            OutputError: it cannot be written: a full disk, a closed stream.
        """
        return self._done(lambda: sys.stdout.write(text))

    def finish(self) -> None:
        """See that all of it is written.

        Raises:
            ReaderGone: see `write`.
            OutputError: see `write`.
        """
        self._done(finish_stdout)

    def _done(self, write: Callable[[], int | None]) -> int:
        failure: OSError | None
        count = 0
        try:
            count = write() or 0
            failure = sys.stdout.failure if isinstance(sys.stdout, Output) else None
        except OSError as error:
            failure = error
        if isinstance(failure, BrokenPipeError):
            raise ReaderGone("nobody reads standard output") from failure
        if failure is not None:
            raise OutputError(f"standard output cannot be written: {failure.strerror}") from failure
        return count


def finish_stdout() -> None:
    """Write what waits in standard output."""
    if isinstance(sys.stdout, Output):
        sys.stdout.finish()
    else:
        sys.stdout.flush()


def print_result(*lines: str) -> None:
    """Print lines as a command's result, and see that all it has printed is written.

    Raises:
        ReaderGone: see `Result.write`.
        OutputError: see `Result.write`.
    """
    result = Result()
    if lines:
        print(*lines, sep="\n", file=result)
    result.finish()
