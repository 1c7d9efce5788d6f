"""A request to stop, made by a signal: nothing is done in the handler itself, the work looks at it between steps."""

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


class Stop:
    """A request to stop, made by SIGINT or SIGTERM; a second SIGINT does not ask any more."""

    def __init__(self) -> None:
        self.requested = False
        self.signal = signal.SIGINT

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """The signal handler: nothing is saved in here, the loop looks at `requested` after every step."""
        if self.requested and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.requested, self.signal = True, signal.Signals(number)

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Handle signals while training; only the main thread of a process can."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        former = {number: signal.signal(number, self) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in former.items():
                signal.signal(number, handler)
