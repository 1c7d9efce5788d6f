"""The number of threads for a computation, in one process or in several that share the machine."""

import os

import psutil

OPERATIONS_A_THREAD = 100_000_000
"""Floating-point operations in the forward pass of a batch that are worth one more thread.

Time of an epoch of MNIST with two threads, relative to one thread, on the two cores of an Intel Xeon (Sapphire Rapids):
on an idle machine, and with a busy loop on each core.

| model, batch | operations | alone | busy |
|---|---:|---:|---:|
| MLP, 64 | 14 million | 0.96 | 2.7 |
| MLP, 128 | 28 million | 0.97 | 2.9 |
| CNN, 4 | 60 million | 1.15 | 4.5 |
| MLP, 512 | 112 million | 0.91 | 2.3 |
| CNN, 16 | 239 million | 0.83 | 3.9 |
| MLP, 2,048 | 447 million | 0.68 | 1.1 |
| CNN, 64 | 955 million | 0.63 | 1.2 |
"""

MAX_THREADS = 1024
"""The limit for OMP_NUM_THREADS; a larger number is a mistake."""


def physical_cores() -> int:
    """Count the cores that this process may use; two hardware threads of a core count once."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(allowed, psutil.cpu_count(logical=False) or allowed)


def requested_threads() -> int | None:
    """Read OMP_NUM_THREADS, which all numerical libraries obey; None if it is not set."""
    number = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    if not number:
        return None
    return min(max(1, int(number)), MAX_THREADS) if number.isdecimal() else 1


def usable_cores() -> int:
    """Return the number of threads for a process that has the machine, or a slot of it, to itself."""
    return requested_threads() or physical_cores()


def threads_for(operations: int) -> int:
    """Choose the number of threads for training steps.

    It depends only on the argument and the number of cores, because the last bits of sums depend on it.

    Args:
        operations: floating-point operations in the forward pass of a batch.
    """
    return min(usable_cores(), max(1, operations // OPERATIONS_A_THREAD))


def busy_message() -> str:
    """Describe the load if other programs keep all cores of this machine busy; empty if they do not."""
    load, count = psutil.getloadavg()[0], os.cpu_count() or 1
    if round(load) < count:  # this program needs a core too
        return ""
    return f"this machine is busy, load {load:.1f} on {count} core{'s' * (count > 1)}: training takes longer than alone"
