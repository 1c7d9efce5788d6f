"""Run work with less priority than the rest of the process, and with more again later."""

import contextlib
import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

_ELSEWHERE = 10

AUTOGROUP = Path("/proc/self/autogroup")


def run_nicely(niceness: int, work: Callable[[], T]) -> T:
    """Run a function with a niceness, and return its result.

    Without privileges a thread can only raise its niceness, and under Linux each has its own. So the work runs in a
    new thread, which starts with that of the caller. Other systems have one niceness for all of a process: it becomes
    at most 10 there, and stays.

    Where Linux groups processes by session, it shares the cores among the sessions, and the niceness counts only within
    one (measured: a process in its own session gets 48 % of a core beside another session, with niceness 19 as with 0).
    So a process that leads a session sets that of the session too, which may be lowered again (19: 2 %, 5: 25 %).

    Args:
        niceness: from 0, as the caller's, to 19, the lowest priority.
        work: the function.
    """
    _set_session(niceness)
    if niceness == 0:
        return work()
    if sys.platform != "linux":
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, 0, max(os.getpriority(os.PRIO_PROCESS, 0), min(niceness, _ELSEWHERE)))
        return work()
    with ThreadPoolExecutor(1, initializer=_become, initargs=(niceness,)) as pool:
        return pool.submit(work).result()


def _set_session(niceness: int) -> None:
    """Set the niceness of the session, unless it is another process's."""
    if sys.platform != "linux" or os.getsid(0) != os.getpid():
        return
    with contextlib.suppress(OSError):  # without such groups, or changed 0.1 s ago: the next call sets it
        if not AUTOGROUP.read_text().endswith(f" nice {niceness}\n"):
            AUTOGROUP.write_text(str(niceness))


def hurry(process: int) -> None:
    """Take back the niceness of another process's session, for the work that it is doing now."""
    with contextlib.suppress(OSError):
        Path(f"/proc/{process}/autogroup").write_text("0")


def _become(niceness: int) -> None:
    with contextlib.suppress(OSError):
        thread = threading.get_native_id()
        os.setpriority(os.PRIO_PROCESS, thread, max(os.getpriority(os.PRIO_PROCESS, thread), niceness))
