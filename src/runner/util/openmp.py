"""Configure how the threads of an operation wait for each other: they spin briefly, then sleep.

This must happen before torch is imported, because OpenMP reads its variables only when it is loaded.
"""

import os

SPINS = 10_000
"""Spins of a waiting thread before it sleeps, for GNU's OpenMP (in torch's wheels for Linux).

The default is 300,000, about 18 ms on an Intel Xeon (Sapphire Rapids). Meanwhile the thread occupies the core that the
other thread may need. Time of an epoch of the MNIST CNN with two threads on its two cores, relative to one thread: on
an idle machine 0.61 with the default, 0.63 with 10,000, 0.71 with 1,000, 0.74 with 0; with a busy loop on each core
2.4, 1.17, 1.09 and 1.01.
"""

BLOCK_MILLISECONDS = 1
"""The same for Intel's and LLVM's OpenMP (in torch's wheels for macOS), whose default is 200 ms."""


def wait_asleep() -> None:
    """Set this for the process and its children, unless the environment already says how threads wait."""
    if "OMP_WAIT_POLICY" in os.environ:
        return
    os.environ.setdefault("GOMP_SPINCOUNT", str(SPINS))
    os.environ.setdefault("KMP_BLOCKTIME", str(BLOCK_MILLISECONDS))
