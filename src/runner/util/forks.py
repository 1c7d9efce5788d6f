"""Forks of this process that work beside it and touch nothing of it."""

import contextlib
import ctypes
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

SECONDS = 120  # after which a fork is given up
_LOWER_PRIORITY = 10  # a tenth of a core that training wants; with the lowest, 19, a short run ends before it
_PR_SET_PDEATHSIG = 1  # of Linux's sys/prctl.h


def fork(end: int, work: Callable[[], dict[str, Any]], keep: Collection[int] = ()) -> int:
    """Start a fork that writes what `work` gives as JSON to a pipe, and ends.

    Args:
        end: of the pipe; left open here.
        work: done by the fork; if it raises, nothing is written.
        keep: descriptors that the fork uses as well.

    Returns:
        Its process id.
    """
    parent, positions = os.getpid(), _positions({end, *keep})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Python 3.12 on: that other threads exist is known
        pid = os.fork()
    if pid == 0:
        _be(parent, end, positions, work)
    return pid


def _be(parent: int, end: int, positions: dict[int, int | None], work: Callable[[], dict[str, Any]]) -> NoReturn:
    """Be the fork, come what may."""
    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(SECONDS)
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)
        nowhere = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):  # what the model prints, it prints once
            os.dup2(nowhere, stream)
        _let_go(positions, nowhere)
        logging.disable(logging.CRITICAL)
        os.nice(_LOWER_PRIORITY)
        gc.disable()  # it writes into every object, and so would copy all of the parent's memory
        torch.set_num_threads(1)  # those of the parent are not there
        content = json.dumps(work()).encode()
        while content:
            content = content[os.write(end, content) :]
    finally:
        os._exit(0)


def _positions(keep: Collection[int]) -> dict[int, int | None]:
    """What a fork is not to share: files that are read, with their positions; all that is written; pipes, sockets."""
    found: dict[int, int | None] = {}
    for fd in [int(entry.name) for entry in Path("/proc/self/fd").iterdir()]:
        with contextlib.suppress(OSError):  # of the listing itself
            kind = os.fstat(fd).st_mode
            if fd <= 2 or fd in keep or not (stat.S_ISREG(kind) or stat.S_ISFIFO(kind) or stat.S_ISSOCK(kind)):
                continue
            is_read = stat.S_ISREG(kind) and fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY
            found[fd] = os.lseek(fd, 0, os.SEEK_CUR) if is_read else None
    return found


def _let_go(positions: dict[int, int | None], nowhere: int) -> None:
    """Open files for reading once more, as a data set may have them; everything else leads nowhere.

    A fork shares the position in a file with its parent: what one reads, the other would skip.
    """
    for fd, position in positions.items():
        try:
            if position is None:
                raise OSError
            own = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY)
        except OSError:  # written to, or its owner may read it no more
            os.dup2(nowhere, fd)
            continue
        os.lseek(own, position, os.SEEK_SET)
        os.dup2(own, fd)
        os.close(own)
