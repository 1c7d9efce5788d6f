"""Python processes that start at once: forks of one that has imported MLflow, as the import takes seconds."""

import contextlib
import importlib
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
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

    All three standard streams are pipes. It has the modules of the server that it is forked from.

    Attributes:
        started: the process ids of all of them.
    """

    started: ClassVar[list[int]] = []

    def __init__(
        self,
        command: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        cwd: str | Path = ".",
        text: bool = False,
        start_new_session: bool = False,
        preexec_fn: Callable[[], object] | None = None,
        **_: Any,
    ) -> None:
        context = multiprocessing.get_context("forkserver")
        forkserver.start(["runner.data.digits."], exports_models=True)  # the one server of this process, for sweeps too
        theirs, ours = zip(context.Pipe(duplex=False), *(context.Pipe(duplex=False)[::-1] for _ in "12"), strict=True)
        place, in_child = str(Path(cwd).resolve()), [os.setsid] * start_new_session + [preexec_fn] * bool(preexec_fn)
        arguments = (theirs, list(command), dict(env or os.environ), place, in_child)
        self._process = context.Process(target=_main, args=arguments)
        self._process.start()
        self.stdin, self.stdout, self.stderr = (
            os.fdopen(os.dup(end.fileno()), mode if text else f"{mode}b") for end, mode in zip(ours, "wrr", strict=True)
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

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def terminate(self) -> None:
        self._send(signal.SIGTERM)

    def kill(self) -> None:
        self._send(signal.SIGKILL)

    def _send(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def communicate(self) -> tuple[str, str]:
        self.stdin.close()
        printed = self.stdout.read(), self.stderr.read()
        self.wait()
        return printed


def _main(
    streams: tuple[Connection, ...],
    command: list[str],
    environment: dict[str, str],
    place: str,
    prepare: Sequence[Callable[[], object]],
) -> None:
    for number in (signal.SIGTERM, signal.SIGHUP):  # which the server ignores
        signal.signal(number, signal.SIG_DFL)
    for each in prepare:
        each()
    forkserver.enter(place, environment)
    sys.path.insert(0, "")  # as with both options
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
