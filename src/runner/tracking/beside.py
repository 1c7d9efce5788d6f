"""Processes that outlive the one that starts them, and learn by the end of a pipe that it has ended."""

import contextlib
import os
import subprocess
import sys
import weakref
from collections.abc import Mapping, Sequence

_started: "weakref.WeakSet[subprocess.Popen[str]]" = weakref.WeakSet()


def start_beside(
    module: str, arguments: Sequence[str] = (), environment: Mapping[str, str] | None = None, quiet: bool = False
) -> "subprocess.Popen[str]":
    """Start a module in a process of its own; its standard input ends when this process does, however that ends.

    Args:
        module: that `python -m` runs.
        arguments: of its command line, which every user of the machine can read.
        environment: variables besides those of this process.
        quiet: whether nothing that it prints on standard error is shown.
    """
    process = subprocess.Popen(
        [sys.executable, "-m", module, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL if quiet else None,
        text=True,
        env=os.environ | dict(environment or {}),
        start_new_session=True,  # Ctrl-C in a terminal is for the training
    )
    _started.add(process)
    return process


def _forget() -> None:
    """Release the pipes in a forked child, so that workers of a loader do not keep them open."""
    for process in list(_started):
        assert process.stdin is not None
        with contextlib.suppress(OSError, ValueError):
            if not process.stdin.closed:
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, process.stdin.fileno(), inheritable=False)
                os.close(nowhere)


os.register_at_fork(after_in_child=_forget)
