"""A run or a sweep in a process of its own: it is started, heard and interrupted; this process stays as it is.

No thread is started and nothing is forked that computes: the child is a new Python. It gets its own group of processes,
so that an interrupt of the kernel, which goes to a whole group, reaches it once, by this process.
"""

import codecs
import json
import os
import re
import selectors
import signal
import subprocess
import sys
import sysconfig
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any

from runner.util import events
from runner.util.events import Receiver

BLOCK = 1 << 16


def call(arguments: Sequence[str], receive: Receiver, show: Callable[[str], None]) -> tuple[int, bool]:
    """Run `python -m runner` with these arguments.

    Args:
        arguments: of the command line.
        receive: gets the messages; see `runner.util.events`.
        show: gets what else the process prints.

    Returns:
        The exit code, negative for the number of a signal that killed it; and whether it was interrupted.
    """
    messages, theirs = os.pipe()
    try:
        with _interrupts() as interrupts:
            try:
                process = subprocess.Popen(
                    [sys.executable, "-m", "runner", *arguments],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    pass_fds=[theirs],
                    start_new_session=True,
                    env=_environment(theirs),
                )
            finally:
                os.close(theirs)
            interrupts.pass_on_to(process)
            assert process.stdout is not None
            with process.stdout as printed:
                try:
                    _listen(messages, printed.fileno(), receive, show)
                except BaseException:  # what shows it has failed
                    process.terminate()
                    raise
                finally:
                    code = process.wait()
            return code, interrupts.count > 0
    finally:
        os.close(messages)


def _environment(pipe: int) -> dict[str, str]:
    """Return the environment of the child: it finds the same modules, and the pipe for its messages."""
    installed = [Path(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib", "purelib", "platlib")]
    own = [path for path in sys.path if path and not any(Path(path).is_relative_to(folder) for folder in installed)]
    own = [path for path in own if not re.fullmatch(r"python\d+\.zip", Path(path).name)]  # the standard library's
    return os.environ | {events.VARIABLE: str(pipe), "PYTHONPATH": os.pathsep.join(dict.fromkeys(own))}


def _listen(messages: int, printed: int, receive: Receiver, show: Callable[[str], None]) -> None:
    """Pass on what the process sends and prints, until it has ended."""
    decoder, pending = codecs.getincrementaldecoder("utf-8")("replace"), b""
    os.set_blocking(printed, False)
    with selectors.DefaultSelector() as selector:
        selector.register(messages, selectors.EVENT_READ)
        selector.register(printed, selectors.EVENT_READ)
        while messages in selector.get_map():  # a process that it leaves behind may hold `printed` open
            for key, _ in selector.select():
                block = os.read(key.fd, BLOCK)
                if not block:
                    selector.unregister(key.fd)
                elif key.fd == printed:
                    show(decoder.decode(block))
                else:
                    *lines, pending = (pending + block).split(b"\n")
                    for line in lines:
                        receive(_parse(line))
    with suppress(BlockingIOError):
        while block := os.read(printed, BLOCK):
            show(decoder.decode(block))


def _parse(line: bytes) -> dict[str, Any]:
    message = json.loads(line)
    assert isinstance(message, dict)
    return message


class _Interrupts:
    """Passes SIGINT on to a process: the second one interrupts what it does at once, the third kills it.

    Attributes:
        count: of the signals.
    """

    def __init__(self) -> None:
        self.count = 0
        self._process: subprocess.Popen[bytes] | None = None

    def pass_on_to(self, process: subprocess.Popen[bytes]) -> None:
        """Pass on the signals to this process, and those that have arrived already."""
        self._process = process
        if self.count:
            process.send_signal(signal.SIGINT)

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Handle a signal."""
        self.count += 1
        if self._process is None or self._process.returncode is not None:
            return
        if self.count < 3:
            self._process.send_signal(signal.SIGINT)
            return
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)


@contextmanager
def _interrupts() -> Iterator[_Interrupts]:
    """Handle SIGINT within a block, if this is the main thread; afterwards as before."""
    interrupts = _Interrupts()
    if threading.current_thread() is not threading.main_thread():
        yield interrupts
        return
    former = signal.signal(signal.SIGINT, interrupts)
    try:
        yield interrupts
    finally:
        signal.signal(signal.SIGINT, former)
