"""Python processes that start at once: forks of one that has imported MLflow, as the import takes seconds."""

import contextlib
import importlib
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any, ClassVar

import pytest

from helpers import power
from runner.sweeps.launchers import forkserver
from runner.tracking import delivery_loop

STEP_SECONDS = 0.5  # between uploads, so that tests need not wait ten seconds for the next


class Forked:
    """A replacement of `subprocess.Popen` for `python -c code ...` and `python -m module ...`, with what is used here.

    All three standard streams are text pipes. It has the modules of the server that it is forked from.

    Attributes:
        started: the process ids of all of them.
    """

    started: ClassVar[list[int]] = []

    def __init__(self, command: Sequence[str], *, env: Mapping[str, str] | None = None, **_: Any) -> None:
        context = multiprocessing.get_context("forkserver")
        forkserver.start(["runner.data.digits."], exports_models=True)  # the one server of this process, for sweeps too
        theirs, ours = zip(context.Pipe(duplex=False), *(context.Pipe(duplex=False)[::-1] for _ in "12"), strict=True)
        self._process = context.Process(target=_main, args=(theirs, list(command), dict(env or os.environ)))
        self._process.start()
        self.stdin, self.stdout, self.stderr = (
            os.fdopen(os.dup(end.fileno()), mode) for end, mode in zip(ours, "wrr", strict=True)
        )
        for end in (*theirs, *ours):
            end.close()
        self._lock = threading.Lock()
        assert self._process.pid is not None
        self.pid = self._process.pid
        self.started.append(self.pid)

    def wait(self, timeout: float | None = None) -> int:
        with self._lock:  # two threads wait, and the exit code can be read once
            self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired("a fork", timeout or 0.0)
        return self._process.exitcode

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)

    def communicate(self) -> tuple[str, str]:
        self.stdin.close()
        printed = self.stdout.read(), self.stderr.read()
        self.wait()
        return printed


def _main(streams: tuple[Connection, ...], command: list[str], environment: dict[str, str]) -> None:
    os.setsid()
    os.environ.clear()
    os.environ.update(environment)
    for number, stream in enumerate(streams):
        os.dup2(stream.fileno(), number)
        stream.close()
    if power.VARIABLE in os.environ:
        power.record(Path(os.environ[power.VARIABLE]))
    files: list[IO[str]] = [os.fdopen(number, mode) for number, mode in enumerate("rww")]
    sys.stdin, sys.stdout, sys.stderr = files
    _, option, what, *sys.argv[1:] = command
    if option == "-c":
        exec(compile(what, "<forked>", "exec"), {"__name__": "__main__"})
        code = 0
    else:
        module = importlib.import_module(what)
        delivery_loop.SECONDS_BETWEEN_STEPS = STEP_SECONDS
        code = module.main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


@contextlib.contextmanager
def forked_delivery() -> Iterator[None]:
    """Upload by such forks, and more often."""
    with pytest.MonkeyPatch.context() as patch:
        stand_in = SimpleNamespace(Popen=Forked, PIPE=subprocess.PIPE, TimeoutExpired=subprocess.TimeoutExpired)
        patch.setattr("runner.tracking.beside.subprocess", stand_in)
        yield
