"""How many threads a computation gets: of this process, or of several that share the machine."""

import os

import psutil


def cores() -> int:
    """The cores this process may run on, two hardware threads of one counting once."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(allowed, psutil.cpu_count(logical=False) or allowed)


def threads_asked() -> int | None:
    """What OMP_NUM_THREADS says, which every numerical library goes by; None if it says nothing."""
    asked = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    if not asked:
        return None
    return max(1, int(asked)) if asked.isdigit() else 1


def usable_cores() -> int:
    """Threads for one process that has the machine for itself."""
    return threads_asked() or cores()
