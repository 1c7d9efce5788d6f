"""Run work with less priority than the rest of the process, and with more again later."""

import contextlib
import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")

_ELSEWHERE = 10


def run_nicely(niceness: int, work: Callable[[], T]) -> T:
    """Run a function with a niceness, and return its result.

    Without privileges a thread can only raise its niceness, and under Linux each has its own. So the work runs in a
    new thread, which starts with that of the caller. Other systems have one niceness for all of a process: it becomes
    at most 10 there, and stays.

    Args:
        niceness: from 0, as the caller's, to 19, the lowest priority.
        work: the function.
    """
    if niceness == 0:
        return work()
    if sys.platform != "linux":
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, 0, max(os.getpriority(os.PRIO_PROCESS, 0), min(niceness, _ELSEWHERE)))
        return work()
    with ThreadPoolExecutor(1, initializer=_become, initargs=(niceness,)) as pool:
        return pool.submit(work).result()


def _become(niceness: int) -> None:
    with contextlib.suppress(OSError):
        thread = threading.get_native_id()
        os.setpriority(os.PRIO_PROCESS, thread, max(os.getpriority(os.PRIO_PROCESS, thread), niceness))
