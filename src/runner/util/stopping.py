"""Requests to stop, made by signals. A handler only records the request; training checks it between steps."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Interrupt:
    """The handler of SIGINT before training starts: it raises KeyboardInterrupt, which an import may swallow."""

    def __init__(self) -> None:
        self.requested = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Handle the signal."""
        self.requested = True
        raise KeyboardInterrupt

    def check(self) -> None:
        """Raise KeyboardInterrupt again if one was swallowed."""
        if self.requested:
            raise KeyboardInterrupt


def has_terminal() -> bool:
    """Return whether the process has a controlling terminal; it has none after the terminal was closed."""
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY | os.O_CLOEXEC))
    except OSError:
        return False
    return True


def outlive_terminal() -> None:
    """Keep the process running when its terminal is closed, as `nohup` does; any other SIGHUP still ends it."""

    def hang_up(number: int, frame: FrameType | None) -> None:
        if has_terminal():
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

    if has_terminal() and signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:
        signal.signal(signal.SIGHUP, hang_up)


@contextmanager
def ignoring_hangups() -> Iterator[None]:
    """Ignore SIGHUP within a block, also in processes started there; effective in the main thread only."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    former = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGHUP, former)


class Stop:
    """A request to stop, made by SIGINT, SIGTERM or SIGHUP. A second SIGINT interrupts at once.

    SIGHUP is not a request if the terminal was closed: training continues without it.
    """

    def __init__(self) -> None:
        self._terminal = has_terminal()
        self.requested = False
        self.signal = signal.SIGINT

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Record the signal. Nothing is saved here: the loop checks `requested` after every step."""
        if number == signal.SIGHUP and self._terminal and not has_terminal():
            return
        if self.requested and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.requested, self.signal = True, signal.Signals(number)

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
        try:
            yield
        finally:
            for number, handler in former.items():
                signal.signal(number, handler)
