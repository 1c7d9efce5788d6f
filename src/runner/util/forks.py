"""Forks of this process that compute in the background without disturbing it."""

import contextlib
import fcntl
import gc
import json
import logging
import os
import signal
import stat
import warnings
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, NoReturn

import torch

from runner.util.stopping import end_with_parent

SECONDS = 120  # the time limit of a fork
_NICENESS = 10  # about a tenth of a core while training runs; with 19, the most, a short run ends before the fork does


def fork(end: int, work: Callable[[], dict[str, Any]], keep: Collection[int] = ()) -> int:
    """Start a fork that writes the result of `work` to a pipe as JSON, and exits.

    Args:
        end: the write end of the pipe; it stays open in this process.
        work: the function that the fork calls; if it raises, nothing is written.
        keep: other descriptors that the fork uses.

    Returns:
        The fork's process id.
    """
    parent, positions = os.getpid(), _positions({end, *keep})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Python 3.12 and later warn that the process has other threads
        pid = os.fork()
    if pid == 0:
        _run_child(parent, end, positions, work)
    return pid


def _run_child(parent: int, end: int, positions: dict[int, int | None], work: Callable[[], dict[str, Any]]) -> NoReturn:
    """Run the work in the fork, and exit in any case."""
    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(SECONDS)
        end_with_parent(signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)
        null = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):  # the parent already prints what the model prints
            os.dup2(null, stream)
        _detach_files(positions, null)
        logging.disable(logging.CRITICAL)
        os.nice(_NICENESS)
        gc.disable()  # it writes to every object, which would copy all of the parent's memory
        torch.set_num_threads(1)  # the parent's threads do not exist in the fork
        content = json.dumps(work()).encode()
        while content:
            content = content[os.write(end, content) :]
    finally:
        os._exit(0)


def _positions(keep: Collection[int]) -> dict[int, int | None]:
    """List the descriptors that a fork must not share: files, pipes and sockets.

    Returns:
        By descriptor, the position in a file that is open for reading; None for all others.
    """
    positions: dict[int, int | None] = {}
    for fd in [int(entry.name) for entry in Path("/proc/self/fd").iterdir()]:
        with contextlib.suppress(OSError):  # the descriptor of the listing is closed by now
            kind = os.fstat(fd).st_mode
            if fd <= 2 or fd in keep or not (stat.S_ISREG(kind) or stat.S_ISFIFO(kind) or stat.S_ISSOCK(kind)):
                continue
            is_read = stat.S_ISREG(kind) and fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY
            positions[fd] = os.lseek(fd, 0, os.SEEK_CUR) if is_read else None
    return positions


def _detach_files(positions: dict[int, int | None], null: int) -> None:
    """Reopen files that are read, such as those of a data set; redirect all other descriptors to the null device.

    A fork shares the position in a file with its parent: the parent would skip what the fork reads.
    """
    for fd, position in positions.items():
        try:
            if position is None:
                raise OSError
            own = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY)
        except OSError:  # not open for reading, or no longer readable by this user
            os.dup2(null, fd)
            continue
        os.lseek(own, position, os.SEEK_SET)
        os.dup2(own, fd)
        os.close(own)
