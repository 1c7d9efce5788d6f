"""How the threads of one operation wait for each other: for a moment busily, then asleep.

It must be known before torch is loaded, as OpenMP reads its variables then and never again.
"""

import os

SPINS = 10_000
"""Times that a waiting thread of GNU's OpenMP (torch's wheels for Linux have it) looks again before it sleeps.

Its own default is 300,000, some 18 ms on an Intel Xeon (Sapphire Rapids), for which it takes the core from the thread
that it waits for. Epochs of the MNIST CNN with two threads on its two cores, as ratios to one thread: alone, 0.61 with
the default, 0.63 with 10,000, 0.71 with 1,000, 0.74 with 0; with a busy loop on each core, 2.4, 1.17, 1.09 and 1.01.
"""

BLOCK_MILLISECONDS = 1
"""The same for Intel's and LLVM's OpenMP (torch's wheels for macOS): theirs is 200 ms."""


def wait_asleep() -> None:
    """Set it for this process and those that it starts, where the environment does not say how threads wait."""
    if "OMP_WAIT_POLICY" in os.environ:
        return
    os.environ.setdefault("GOMP_SPINCOUNT", str(SPINS))
    os.environ.setdefault("KMP_BLOCKTIME", str(BLOCK_MILLISECONDS))
