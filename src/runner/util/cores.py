"""How many threads a computation gets: of this process, or of several that share the machine."""

import os

import psutil

OPERATIONS_A_THREAD = 100_000_000
"""Floating-point operations in the forward pass of a batch that are worth a thread of their own.

Epochs of MNIST on the two cores of an Intel Xeon (Sapphire Rapids), two threads against one: with nothing else to do
on the machine, and with a busy loop on each core.

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

MOST_THREADS = 1024
"""A larger number in the environment is a mistake."""


def physical_cores() -> int:
    """The cores this process may run on, two hardware threads of one counting once."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(allowed, psutil.cpu_count(logical=False) or allowed)


def requested_threads() -> int | None:
    """What OMP_NUM_THREADS says, which every numerical library goes by; None if it says nothing."""
    asked = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    if not asked:
        return None
    return min(max(1, int(asked)), MOST_THREADS) if asked.isdecimal() else 1


def usable_cores() -> int:
    """Threads for one process that has the machine for itself, or a slot of it."""
    return requested_threads() or physical_cores()


def threads_for(operations: int) -> int:
    """Threads for training steps of so many floating-point operations in the forward pass of a batch.

    It depends on nothing else but the cores there are, as the last bits of sums depend on it.
    """
    return min(usable_cores(), max(1, operations // OPERATIONS_A_THREAD))


def busy_message() -> str:
    """Say that other programs keep all cores of this machine busy; nothing if they do not."""
    load, there = psutil.getloadavg()[0], os.cpu_count() or 1
    if round(load) < there:  # this program needs one itself
        return ""
    return f"this machine is busy, load {load:.1f} on {there} core{'s' * (there > 1)}: training takes longer than alone"
