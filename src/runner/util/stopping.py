"""A request to stop, made by a signal: nothing is done in the handler itself, the work looks at it between steps."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Interrupt:
    """SIGINT before anything is trained: a KeyboardInterrupt, which may be lost in what is just being imported."""

    def __init__(self) -> None:
        self.requested = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """The signal handler."""
        self.requested = True
        raise KeyboardInterrupt

    def check(self) -> None:
        """Raise the KeyboardInterrupt again, if one was lost."""
        if self.requested:
            raise KeyboardInterrupt


def has_terminal() -> bool:
    """Whether the process has a terminal that controls it; once that is closed, it has none."""
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY | os.O_CLOEXEC))
    except OSError:
        return False
    return True


def outlive_terminal() -> None:
    """Let the process go on when its terminal is closed, as `nohup` does; any other SIGHUP ends it as before."""

    def hang_up(number: int, frame: FrameType | None) -> None:
        if has_terminal():
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

    if has_terminal() and signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:
        signal.signal(signal.SIGHUP, hang_up)


@contextmanager
def ignoring_hangups() -> Iterator[None]:
    """Start processes that do not end by SIGHUP; only the main thread can."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    former = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGHUP, former)


class Stop:
    """A request to stop, made by SIGINT, SIGTERM or SIGHUP; a second SIGINT does not ask any more.

    A SIGHUP that comes as the terminal is closed is no request: training goes on without it.
    """

    def __init__(self) -> None:
        self._terminal = has_terminal()
        self.requested = False
        self.signal = signal.SIGINT

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """The signal handler: nothing is saved in here, the loop looks at `requested` after every step."""
        if number == signal.SIGHUP and self._terminal and not has_terminal():
            return
        if self.requested and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.requested, self.signal = True, signal.Signals(number)

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Handle signals while training; only the main thread of a process can."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        asking = [signal.SIGINT, signal.SIGTERM]
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as with `nohup`
            asking.append(signal.SIGHUP)
        former = {number: signal.signal(number, self) for number in asking}
        try:
            yield
        finally:
            for number, handler in former.items():
                signal.signal(number, handler)
