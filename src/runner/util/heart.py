"""Signs of life of the ranks of a run, in the store of torchrun. A rank that is silent for a minute ends the run."""

import os
import signal
import threading
from contextlib import suppress
from time import monotonic, sleep
from typing import TYPE_CHECKING

import psutil

if TYPE_CHECKING:
    from runner.util.ranks import Ranks

BEAT_SECONDS = 5.0
"""Between two signs of life of a rank."""

SILENT_SECONDS = 60.0
"""A rank without a sign of life for so long ends the run."""

DONE = "done"
"""The last sign of life of a rank that has nothing left to do, while rank 0 draws plots and uploads."""

ORPHAN_SECONDS = 8.0
"""Time for a rank without torchrun to write a checkpoint."""


class Heart:
    """A thread that beats, and that listens to the others: rank 0 to all, the others to rank 0.

    Attributes:
        silent: a rank that has given no sign of life for a minute; None without one.
        seen: when the last sign of life of each rank arrived, by `monotonic`.
    """

    def __init__(self, ranks: "Ranks") -> None:
        self._ranks, self._stopped = ranks, threading.Event()
        self.silent: int | None = None
        self.seen = dict[int, float]()
        self._store = ranks._torchrun.clone()  # a connection of its own: another may wait for a key
        self._thread = threading.Thread(target=self._beat, name="heart", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop to beat, and tell the others that this rank is done: its silence is no failure."""
        self._stopped.set()
        self._thread.join(BEAT_SECONDS)
        with suppress(Exception):  # torchrun is gone
            self._store.set(self._key(self._ranks.rank), DONE)

    def _key(self, rank: int) -> str:
        return f"runner/{self._ranks._start}/beat/{rank}"

    def _beat(self) -> None:
        ranks = self._ranks
        others = [rank for rank in range(ranks.count) if rank != 0] if ranks.rank == 0 else [0]
        last, seen, count = dict.fromkeys(others, ""), self.seen, 0
        seen.update(dict.fromkeys(others, monotonic()))
        try:
            while True:
                count += 1
                self._store.set(self._key(ranks.rank), str(count))
                for rank in others:
                    beat = self._store.get(self._key(rank)).decode() if self._store.check([self._key(rank)]) else ""
                    if beat != last[rank] or beat == DONE:
                        last[rank], seen[rank] = beat, monotonic()
                    elif monotonic() - seen[rank] > SILENT_SECONDS and self.silent is None:
                        self.silent = rank
                        self._end(rank)
                if self._stopped.wait(BEAT_SECONDS):
                    return
        except Exception:  # torchrun is gone, which would have ended this process
            if not self._stopped.is_set():
                os.kill(os.getpid(), signal.SIGTERM)
                sleep(ORPHAN_SECONDS)
                os._exit(1)

    def _end(self, rank: int) -> None:
        """End the run, as a rank is silent. The operation that waits for it fails when its process is gone.

        `ProcessGroup.abort` does that for NCCL; for Gloo it returns and the operation waits on (torch 2.14).
        """
        ranks = self._ranks
        if ranks.rank != 0:
            os._exit(1)  # torchrun ends the others
        if (process := ranks.process_here(rank)) is not None:
            with suppress(psutil.Error):
                process.kill()
        import torch.distributed as dist

        if dist.group.WORLD is not None:
            dist.group.WORLD.abort()
