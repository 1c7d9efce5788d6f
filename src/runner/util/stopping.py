"""Requests to stop, made by signals. A handler only records the request; training checks it between steps."""

import ctypes
import os
import re
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from math import inf
from pathlib import Path
from time import monotonic
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
TERMINAL = (signal.SIGINT, signal.SIGHUP)
_PR_SET_PDEATHSIG = 1  # of Linux's sys/prctl.h


def end_with_parent(number: int) -> None:
    """Let Linux send this process a signal when the one that started it dies; elsewhere nothing happens."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, number)


class Interrupt:
    """The handler of a command's signals until a run or a sweep listens itself, by `Stop`.

    At first it ends the process at once: while modules are imported, there is nothing to close. After `begin` it raises
    KeyboardInterrupt, and a second SIGINT ends the process at once. Libraries swallow KeyboardInterrupt while they are
    imported, or turn it into an error that looks like a mistake in the config: hence `check`.

    Attributes:
        signal: the signal that has arrived; None if there was none.
    """

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self._raises = self._defers = self._terminal = False

    def install(self) -> None:
        """Handle the signals that are not ignored; SIGINT always."""
        if threading.current_thread() is not threading.main_thread():
            return
        self._terminal = has_terminal()
        unblock()
        for number in SIGNALS:
            if number == signal.SIGINT or signal.getsignal(number) is signal.SIG_DFL:
                signal.signal(number, self)

    def begin(self) -> None:
        """Raise KeyboardInterrupt from now on, as there is something to close."""
        self.install()
        self._raises = True

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Handle a signal."""
        if number == signal.SIGHUP and self._terminal and not has_terminal():
            return
        is_second = self.signal is not None
        self.signal = self.signal or signal.Signals(number)
        if not self._raises or (is_second and number == signal.SIGINT):
            with suppress(OSError):
                os.write(2, f"{self.message}\n".encode())
            os._exit(self.exit_code)
        if not self._defers:
            raise KeyboardInterrupt

    def check(self) -> None:
        """Raise KeyboardInterrupt if a signal has arrived; call it before an error is reported."""
        if self.signal is not None:
            raise KeyboardInterrupt

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Only record a signal within the block, in which a folder is made and a `Stop` takes over."""
        self._defers = True
        try:
            yield
        finally:
            self._defers = False

    def take(self) -> signal.Signals | None:
        """Return the recorded signal and forget it; the caller acts on it."""
        self._defers = False
        taken, self.signal = self.signal, None
        return taken

    @property
    def exit_code(self) -> int:
        """The exit code of an interrupted command: 130, 143 or 129."""
        return 128 + (self.signal or signal.SIGINT)

    @property
    def message(self) -> str:
        """The line that an interrupted command prints."""
        return f"interrupted by {(self.signal or signal.SIGINT).name}"


INTERRUPT = Interrupt()
"""Of this process."""


def is_from_signal() -> bool:
    """Return whether a KeyboardInterrupt may come from a signal; if not, the user's code has raised it itself."""
    handler = signal.getsignal(signal.SIGINT)
    return handler.signal is not None if isinstance(handler, Interrupt) else handler is not signal.SIG_IGN


def is_command() -> bool:
    """Return whether this process is a command: `python -m runner`, `python -m runner.<command>`, or `runner`.

    It can be called while the package is imported.
    """
    if sys.argv[:1] == ["-m"]:  # Python's own mark while it looks for the module
        return any(re.fullmatch(r"(-\w*m)?runner(\.\w+)?", word) for word in sys.orig_argv[1:])
    script = Path(sys.argv[0] if sys.argv else "")
    return script.name == "runner" and script.parent == Path(sys.executable).parent


def has_terminal() -> bool:
    """Return whether the process has a controlling terminal; it has none after the terminal was closed."""
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY | os.O_CLOEXEC))
    except OSError:
        return False
    return True


@contextmanager
def blocked() -> Iterator[None]:
    """Block the signals of a terminal within a block, for a process that is started there: it must unblock them.

    This process gets those that arrive meanwhile at the end of the block.
    """
    former = signal.pthread_sigmask(signal.SIG_BLOCK, TERMINAL)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, former)


def unblock() -> None:
    """Unblock these signals."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, TERMINAL)


HOLD_SECONDS = 5.0
"""After a KeyboardInterrupt, those in which no other is raised: an impatient user would interrupt what ends the run."""


class Stop:
    """A request to stop, made by SIGINT, SIGTERM or SIGHUP. A second SIGINT interrupts at once.

    SIGHUP is not a request if the terminal was closed: training continues without it.
    """

    def __init__(self) -> None:
        self._terminal = has_terminal()
        self._held_until = 0.0
        self._is_pending = False
        self.requested = False
        self.signal = signal.SIGINT

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Record the signal. Nothing is saved here: the loop checks `requested` after every step."""
        if number == signal.SIGHUP and self._terminal and not has_terminal():
            return
        if self.requested and number == signal.SIGINT:
            self._is_pending = True
            self._interrupt()
        self.requested, self.signal = True, signal.Signals(number)

    def _interrupt(self) -> None:
        if self._is_pending and monotonic() >= self._held_until:
            self._is_pending, self._held_until = False, monotonic() + HOLD_SECONDS
            raise KeyboardInterrupt

    def hold(self) -> None:
        """Raise no KeyboardInterrupt from now on, until `release`."""
        self._held_until = inf

    def release(self) -> None:
        """Raise KeyboardInterrupt again; now, if a second SIGINT has arrived since `hold`."""
        self._held_until = 0.0
        self._interrupt()

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Handle the signals within a block; effective in the main thread only."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        numbers = [signal.SIGINT, signal.SIGTERM]
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # `nohup` ignores it
            numbers.append(signal.SIGHUP)
        former = {number: signal.signal(number, self) for number in numbers}
        if (earlier := INTERRUPT.take()) is not None:
            self(earlier, None)
        try:
            yield
        finally:
            for number, handler in former.items():
                signal.signal(number, handler)
