"""The ranks of a run: the processes that torchrun has started, and what they tell each other besides training.

An error in any of them ends the run, and rank 0 reports which.
"""

import os
import pickle
import secrets
import socket
from base64 import b64decode, b64encode
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cache, cached_property
from threading import Event, Thread
from time import monotonic, sleep, time
from typing import TYPE_CHECKING, Any

import psutil

from runner.errors import TrainingError, first_line
from runner.util.heart import BEAT_SECONDS, SILENT_SECONDS, Heart
from runner.util.stopping import INTERRUPT

if TYPE_CHECKING:
    import torch.distributed

COLLECTIVE_SECONDS = 120.0
"""The longest wait of an operation among all ranks."""

START_SECONDS = 3600.0
"""The longest wait for rank 0 to compose the config, and to load the data."""

TORCHRUN = "RUNNER_TORCHRUN"
"""The variable with the number of the process that starts the ranks, where runner does."""

WATCH_SECONDS = 1.0
"""Between two looks whether it lives, before the ranks have met; then the store tells."""

EXIT_LOST = 1

REPORT_SECONDS = 2.0
"""How long rank 0 waits for the report of a rank that has failed."""

LOST_SECONDS = 4 * BEAT_SECONDS
"""After an error, a rank of another machine that gives neither a sign of life nor a report for so long has ended."""

LOOK_SECONDS = 0.05
"""Between two looks at the store, where one waits for another."""

OF_GROUP = ("gloo", "NCCL", "ProcessGroup", "TCPStore", "Connection closed by peer", "Connection reset by peer")
"""Words of the errors of operations among ranks."""


def is_of_group(error: BaseException) -> bool:
    """Return whether an error is of an operation among ranks: another rank may have caused it."""
    return isinstance(error, RuntimeError) and any(word in str(error) for word in OF_GROUP)


@dataclass
class Ranks:
    """The ranks of a run, as torchrun's environment variables tell them.

    Attributes:
        rank: of this process, from 0.
        count: of all.
        local_rank: of this process among those of its machine.
        local_count: of those of its machine.
        heart: of this process, while it has joined the others.
    """

    rank: int
    count: int
    local_rank: int
    local_count: int
    heart: Heart | None = field(default=None, compare=False, kw_only=True)
    _start: str = field(default="", compare=False, kw_only=True)
    _handed: bool = field(default=False, compare=False, kw_only=True)

    @classmethod
    def here(cls) -> "Ranks | None":
        """Return the ranks that this process belongs to, each time the same; None if torchrun has not started it."""
        names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
        numbers = all(os.environ.get(name, "").isdecimal() for name in (*names, "MASTER_PORT"))
        if not numbers or not os.environ.get("MASTER_ADDR"):
            return None
        return _ranks(*(int(os.environ[name]) for name in names))

    @cached_property
    def _torchrun(self) -> "torch.distributed.Store":
        """The store of torchrun: it lasts as long as torchrun, also if the ranks are started again.

        Raises:
            RankError: it cannot be reached; or, without torchrun, the others do not come to that of rank 0.
        """
        from torch.distributed import DistError
        from torch.distributed.rendezvous import rendezvous

        seconds = START_SECONDS if self.rank else COLLECTIVE_SECONDS
        try:
            with _ending_with_torchrun():
                store, *_ = next(rendezvous("env://", timeout=timedelta(seconds=seconds)))
        except (DistError, ValueError) as error:
            place = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
            text = (
                f"RANK, WORLD_SIZE and MASTER_ADDR are set, but the ranks do not meet at {place}: {first_line(error)}"
            )
            raise RankError(f"{text}; unset them, or start the ranks by torchrun") from error
        store.set_timeout(timedelta(seconds=START_SECONDS))
        return store

    @cached_property
    def _store(self) -> "torch.distributed.Store":
        """The part of the store that those ranks use which rank 0 has started together."""
        from torch.distributed import PrefixStore

        return PrefixStore(f"runner/{self._start}", self._torchrun)

    def remember(self, key: str, value: str) -> None:
        """Write a text for the ranks that torchrun starts after these."""
        self._torchrun.set(f"runner/{key}", value)

    def remembered(self, key: str) -> str | None:
        """Read a text; None if no earlier ranks wrote it."""
        name = f"runner/{key}"
        return self._torchrun.get(name).decode() if self._torchrun.check([name]) else None

    def hand_on(self, value: object) -> None:
        """Send a value to the other ranks, before training; they call `receive`. Only the first one counts.

        Each rank has a token, by which it is told from the one before it: torchrun may start ranks again at any time,
        those of another machine earlier or later, and counts how often on each machine for itself (2.14).

        Raises:
            RankError: one does not ask for it.
            KeyboardInterrupt: a signal has arrived while it waits for the others.
        """
        if self._handed:
            return
        self._start, self._handed = secrets.token_hex(8), True
        text, waiting, sent = _encode((self._start, value)), set(range(1, self.count)), dict[int, str]()
        deadline = monotonic() + COLLECTIVE_SECONDS
        while waiting:
            if monotonic() > deadline:
                raise RankError(f"rank {min(waiting)} of {self.count} has not started within {COLLECTIVE_SECONDS:g} s")
            for rank in sorted(waiting):
                token = self.remembered(f"token/{rank}")
                if token is not None and sent.get(rank) != token:
                    self.remember(f"start/{token}", text)
                    sent[rank] = token
                elif token is not None and self.remembered(f"taken/{token}"):
                    waiting.remove(rank)
            INTERRUPT.check()
            sleep(LOOK_SECONDS)

    def receive(self) -> Any:
        """Wait for the value that rank 0 sends. Torchrun ends this process if rank 0 ends without one."""
        token = secrets.token_hex(8)
        self.remember(f"token/{self.rank}", token)
        key = f"runner/start/{token}"
        self._torchrun.wait([key], timedelta(seconds=START_SECONDS))
        self._start, value = _decode(self._torchrun.get(key))
        self._torchrun.delete_key(key)
        self.remember(f"taken/{token}", "yes")
        return value

    @contextmanager
    def joined(self) -> Iterator[None]:
        """Join the process group of all ranks within a block, and beat."""
        import torch
        import torch.distributed as dist

        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        self._store.set(f"process/{self.rank}", f"{_machine()}:{os.getpid()}")
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

    def report(self, error: BaseException, text: str, details: str) -> None:
        """Tell rank 0 why this rank fails.

        Args:
            error: what was raised here.
            text: in words.
            details: the traceback.
        """
        with suppress(Exception):  # torchrun is gone, too
            self._store.set(f"error/{self.rank}", _encode((is_of_group(error), time(), text, details)))

    def cause(self) -> "RankError | None":
        """Return the error of the rank that has failed first; None if no other rank has failed.

        Call it after an error on rank 0, which may be a consequence.
        """
        if self.heart is not None and self.heart.silent is not None:
            return RankError(f"rank {self.heart.silent} was silent for {SILENT_SECONDS:.0f} s, and the run was ended")
        others, began = [rank for rank in range(self.count) if rank != self.rank], monotonic()
        with suppress(Exception):  # torchrun is gone
            while True:
                waited = monotonic() - began
                ended = [rank for rank in others if self._is_dead(rank)]  # a rank reports before it ends
                reports = {rank: _decode(self._store.get(f"error/{rank}")) for rank in others if self._has(rank)}
                quiet = [rank for rank in others if rank not in reports and self._is_quiet(rank, began)]
                if waited > LOST_SECONDS:
                    ended += quiet
                if killed := [rank for rank in ended if rank not in reports]:
                    return RankError(f"rank {killed[0]} has ended without an error: it was killed, or called exit")
                causes = {rank: report for rank, report in reports.items() if not report[0]}
                if causes or (reports and not quiet):  # those of others may be consequences
                    rank, (_, _, error, details) = min(reports.items(), key=lambda report: report[1][:2])
                    return RankError(f"rank {rank}: {error}", details)
                if waited > REPORT_SECONDS and not quiet:
                    break
                sleep(LOOK_SECONDS)
        return None

    def _is_quiet(self, rank: int, since: float) -> bool:
        """Return whether no sign of life of a rank of another machine shows that it lived after a time.

        One that is noticed soon after may have been given before.
        """
        if self.heart is None or self._place(rank) is not None:
            return False
        return self.heart.seen.get(rank, 0.0) < since + 1.2 * BEAT_SECONDS

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
        machine, _, number = self._store.get(f"process/{rank}").decode().rpartition(":")
        return int(number) if machine == _machine() else None


@cache
def _ranks(rank: int, count: int, local_rank: int, local_count: int) -> Ranks:
    return Ranks(rank, count, local_rank, local_count)


@contextmanager
def _ending_with_torchrun() -> Iterator[None]:
    """End this process, which has nothing to save yet, if torchrun dies within the block, whose store never answers."""
    torchrun, over = int(os.environ.get(TORCHRUN, os.getppid())), Event()

    def watch() -> None:
        while not over.wait(WATCH_SECONDS):
            if os.getppid() != torchrun:
                os._exit(EXIT_LOST)

    Thread(target=watch, daemon=True).start()
    try:
        yield
    finally:
        over.set()


def _machine() -> str:
    """Return a name of this machine that no other one of the run has: containers may share the name of a host."""
    return f"{socket.gethostname()}/{os.environ.get('GROUP_RANK', '')}"


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
