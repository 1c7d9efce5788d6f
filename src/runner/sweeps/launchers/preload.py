"""Setup of the server that jobs are forked from, done by importing this first: see `forkserver`."""

import atexit
import gc
import os
import shutil
import signal
import sys
from pickle import UnpicklingError
from types import TracebackType

from runner.util import streams
from runner.util.program import COLLECT_AFTER

streams.protect()  # inherited by all forks
gc.set_threshold(COLLECT_AFTER)  # of the forks
gc.disable()  # what is imported stays: looking for garbage in it takes 0.1 s, for which the first job would wait
for number in (signal.SIGTERM, signal.SIGHUP):  # to a process group: the sweep ends by it, and then this server
    signal.signal(number, signal.SIG_IGN)
sockets = os.environ.pop("RUNNER_SOCKETS", None)


def report(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Report an error of a fork before its function is called, unless its sweep was killed while it sent that."""
    if not issubclass(kind, EOFError | UnpicklingError):
        sys.__excepthook__(kind, error, trace)


sys.excepthook = report


def end() -> None:
    """Remove what a killed sweep has left, and exit. Forks exit another way.

    Python's own exit takes a second, for which a reader of the sweep's output would wait.
    """
    if sockets is not None:
        shutil.rmtree(sockets, ignore_errors=True)
    os._exit(0)


atexit.register(end)
