"""The ranks of a run: the processes that torchrun has started, and what they tell each other besides training.

Each rank beats in the store of torchrun. A rank that is silent for a minute ends the run, and so does an error in any
of them; rank 0 reports which.
"""

import os
import pickle
import signal
import socket
import threading
from base64 import b64decode, b64encode
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cache, cached_property
from time import monotonic, sleep, time
from typing import TYPE_CHECKING, Any

import psutil

from runner.errors import TrainingError

if TYPE_CHECKING:
    import torch.distributed

BEAT_SECONDS = 5.0
"""Between two signs of life of a rank."""

SILENT_SECONDS = 60.0
"""A rank without a sign of life for so long ends the run."""

COLLECTIVE_SECONDS = 120.0
"""The longest wait of an operation among all ranks."""

DONE = "done"
"""The last sign of life of a rank that has nothing left to do, while rank 0 draws plots and uploads."""

START_SECONDS = 3600.0
"""The longest wait for rank 0 to compose the config, and to load the data."""

ORPHAN_SECONDS = 8.0
"""Time for a rank without torchrun to write a checkpoint."""

REPORT_SECONDS = 2.0
"""How long rank 0 waits for the report of a rank that has failed."""


@dataclass
class Ranks:
    """The ranks of a run, as torchrun's environment variables tell them.

    Attributes:
        rank: of this process, from 0.
        count: of all.
        local_rank: of this process among those of its machine.
        local_count: of those of its machine.
        attempt: how often torchrun has started them again.
        heart: of this process, while it has joined the others.
    """

    rank: int
    count: int
    local_rank: int
    local_count: int
    attempt: int = 0
    heart: "Heart | None" = field(default=None, compare=False, kw_only=True)

    @classmethod
    def here(cls) -> "Ranks | None":
        """Return the ranks that this process belongs to, each time the same; None if torchrun has not started it."""
        names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
        if not all(os.environ.get(name, "").isdecimal() for name in (*names, "MASTER_PORT")):
            return None
        attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        rank, count, local_rank, local_count = (int(os.environ[name]) for name in names)
        return _ranks(rank, count, local_rank, local_count, int(attempt) if attempt.isdecimal() else 0)

    @cached_property
    def _torchrun(self) -> "torch.distributed.Store":
        """The store of torchrun: it lasts as long as torchrun, also if the ranks are started again."""
        from torch.distributed.rendezvous import rendezvous

        store, *_ = next(rendezvous("env://", timeout=timedelta(seconds=START_SECONDS)))
        return store

    @cached_property
    def _store(self) -> "torch.distributed.Store":
        """The part of the store of this attempt."""
        from torch.distributed import PrefixStore

        return PrefixStore(f"runner/{self.attempt}", self._torchrun)

    def remember(self, key: str, value: str) -> None:
        """Write a text that a later attempt reads."""
        self._torchrun.set(f"runner/{key}", value)

    def remembered(self, key: str) -> str | None:
        """Read the text that an earlier attempt wrote; None without one."""
        name = f"runner/{key}"
        return self._torchrun.get(name).decode() if self._torchrun.check([name]) else None

    def hand_on(self, value: object) -> None:
        """Send a value to the other ranks, before training; they call `receive`. Only the first one counts."""
        self._store.compare_set("start", "", _encode(value))

    def receive(self) -> Any:
        """Wait for the value that rank 0 sends. Torchrun ends this process if rank 0 ends without one."""
        self._store.wait(["start"], timedelta(seconds=START_SECONDS))
        return _decode(self._store.get("start"))

    @contextmanager
    def joined(self) -> Iterator[None]:
        """Join the process group of all ranks within a block, and beat."""
        import torch
        import torch.distributed as dist

        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        self._store.set(f"process/{self.rank}", f"{socket.gethostname()}:{os.getpid()}")
        dist.init_process_group(
            backend,
            store=self._store,
            rank=self.rank,
            world_size=self.count,
            timeout=timedelta(seconds=COLLECTIVE_SECONDS),
        )
        self.heart = Heart(self)
        try:
            yield
        finally:
            self.heart.stop()
            if dist.is_initialized():
                dist.destroy_process_group()

    def report(self, error: str, details: str) -> None:
        """Tell rank 0 why this rank fails."""
        with suppress(Exception):  # torchrun is gone, too
            self._store.set(f"error/{self.rank}", _encode((time(), error, details)))

    def cause(self) -> "RankError | None":
        """Return the error of the rank that has failed first; None if no other rank has failed.

        Call it after an error on rank 0, which may be a consequence.
        """
        if self.heart is not None and self.heart.silent is not None:
            return RankError(f"rank {self.heart.silent} was silent for {SILENT_SECONDS:.0f} s, and the run was ended")
        others = [rank for rank in range(self.count) if rank != self.rank]
        deadline = monotonic() + REPORT_SECONDS
        with suppress(Exception):  # torchrun is gone
            while True:
                ended = [rank for rank in others if self._is_dead(rank)]  # a rank reports before it ends
                reports = {rank: _decode(self._store.get(f"error/{rank}")) for rank in others if self._has(rank)}
                if killed := [rank for rank in ended if rank not in reports]:
                    return RankError(f"rank {killed[0]} has ended without an error: it was killed")
                if reports:  # those of others may be consequences
                    rank, (_, error, details) = min(reports.items(), key=lambda report: report[1][0])
                    return RankError(f"rank {rank}: {error}", details)
                if monotonic() >= deadline:
                    break
                sleep(0.1)
        return None

    def _has(self, rank: int) -> bool:
        return bool(self._store.check([f"error/{rank}"]))

    def _is_dead(self, rank: int) -> bool:
        """Return whether the process of a rank of this machine has ended."""
        if self._place(rank) is None:
            return False
        process = self.process_here(rank)
        return process is None or process.status() == psutil.STATUS_ZOMBIE

    def process_here(self, rank: int) -> psutil.Process | None:
        """Return the process of a rank of this machine; None if it has ended, or runs on another machine."""
        number = self._place(rank)
        with suppress(psutil.NoSuchProcess):
            return psutil.Process(number) if number is not None else None
        return None

    def _place(self, rank: int) -> int | None:
        """Return the process number of a rank of this machine; None on another machine."""
        if not self._store.check([f"process/{rank}"]):
            return None
        host, _, number = self._store.get(f"process/{rank}").decode().rpartition(":")
        return int(number) if host == socket.gethostname() else None


@cache
def _ranks(rank: int, count: int, local_rank: int, local_count: int, attempt: int) -> Ranks:
    return Ranks(rank, count, local_rank, local_count, attempt)


def _encode(value: object) -> str:
    """Return a value as the store takes it."""
    return b64encode(pickle.dumps(value)).decode()


def _decode(text: bytes) -> Any:
    return pickle.loads(b64decode(text))


class RankError(TrainingError):
    """Another rank has failed.

    Attributes:
        details: its traceback; empty if it left none.
    """

    def __init__(self, text: str, details: str = "") -> None:
        super().__init__(text)
        self.details = details


class Heart:
    """A thread that beats, and that listens to the others: rank 0 to all, the others to rank 0."""

    def __init__(self, ranks: Ranks) -> None:
        self._ranks, self._stopped = ranks, threading.Event()
        self.silent: int | None = None
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
        return f"runner/{self._ranks.attempt}/beat/{rank}"

    def _beat(self) -> None:
        ranks = self._ranks
        others = [rank for rank in range(ranks.count) if rank != 0] if ranks.rank == 0 else [0]
        last, seen, count = dict.fromkeys(others, ""), dict.fromkeys(others, monotonic()), 0
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
