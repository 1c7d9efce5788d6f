"""`hydra/launcher=local`: a process a job on this machine, forked from a server that has everything imported."""

import contextlib
import os
import signal
from collections.abc import Iterator, Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path

from omegaconf import DictConfig

from runner.errors import ConfigError
from runner.sweeps.jobs import JobInfo, JobProgress, JobSpec
from runner.sweeps.launchers import forkserver
from runner.sweeps.launchers.launcher import ExitStatus, ResourceRequest
from runner.sweeps.launchers.slots import Slot, make_slots


class Local:
    """The engine of this machine."""

    elsewhere = False

    def slots(self, asked: ResourceRequest) -> list[Slot]:
        """The machine's cores and GPUs, divided.

        Raises:
            ConfigError: more is wanted than there is.
        """
        gpus, wanted = gpus_for(asked.built, asked.configs), asked.settings
        return make_slots(wanted.jobs, asked.at_most, gpus, wanted.jobs_per_gpu, asked.threads)

    def under_way(self, folder: Path) -> set[int]:
        """None: the processes of a sweep end with it."""
        return set()

    def open(self) -> None:
        """There is nothing to open."""

    def words(self, slots: Sequence[Slot]) -> str:
        """`2 jobs at a time, 1 thread each`, and how they share the GPUs."""
        count, threads = len(slots), slots[0].threads or 1
        gpus = [slot.gpu for slot in slots if slot.gpu is not None]
        most = max(map(gpus.count, gpus), default=0)
        gpu = f", {most} to a GPU" if most > 1 else ", each on a GPU of its own" if gpus else ""
        return f"{count} job{'s' * (count > 1)} at a time, {threads} thread{'s' * (threads > 1)} each{gpu}"

    def environment(self, slot: Slot) -> dict[str, str]:
        """This process's own, and the slot's."""
        return dict(os.environ) | slot.environment()

    def start(self, tasks: Sequence[JobSpec]) -> list["Process"]:
        """Start a process for each."""
        return [Process(task) for task in tasks]

    def close(self) -> None:
        """There is nothing to close."""


class Process:
    """A job in a process of its own.

    Args:
        task: what it is to do.
    """

    grace = 10.0

    def __init__(self, task: JobSpec) -> None:
        self._reports, theirs = forkserver.pipe()
        self._process = forkserver.process("runner.sweeps.launchers.worker:main", task, theirs)
        self._process.start()
        theirs.close()

    def begun(self) -> bool:
        """It runs from the first moment on."""
        return True

    def ends(self) -> Sequence[Connection | int]:
        """Its pipe, while it is open, and what tells of its end."""
        return [*([] if self._reports.closed else [self._reports]), self._process.sentinel]

    def heard(self) -> Iterator[JobProgress]:
        """What lies in the pipe."""
        try:
            while not self._reports.closed and self._reports.poll():
                yield self._reports.recv()
        except (EOFError, OSError):  # the job is gone, in the middle of a word maybe
            self._reports.close()

    def ended(self) -> ExitStatus | None:
        """Its exit code."""
        code = self._process.exitcode
        return None if code is None else ExitStatus(code, forkserver.ended_by(code))

    def tell_to_end(self) -> None:
        """By SIGTERM."""
        assert self._process.pid is not None
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._process.pid, signal.SIGTERM)

    def kill(self) -> None:
        """With everything it has started."""
        self._kill_group()
        assert self._process.pid is not None
        with contextlib.suppress(ProcessLookupError):  # it has no group of its own yet
            os.kill(self._process.pid, signal.SIGKILL)

    def close(self) -> None:
        """End what it may have left behind: workers of a loader, say."""
        self._kill_group()
        self._process.join()
        self._process.close()
        self._reports.close()

    def _kill_group(self) -> None:
        assert self._process.pid is not None
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)


def gpus_for(built: Mapping[int, JobInfo], configs: Mapping[int, DictConfig]) -> list[str]:
    """The GPUs to divide among the jobs, as CUDA_VISIBLE_DEVICES names them; none if no job computes on one.

    Raises:
        ConfigError: a job wants a certain one.
    """
    if not any(each.device == "cuda" for each in built.values()):
        return []
    pinned = [number for number, cfg in configs.items() if cfg.device.index != 0]
    if pinned:
        raise ConfigError(
            f"device.index={configs[pinned[0]].device.index}: each job of a sweep gets a GPU of its own, which is its"
            " number 0; leave it out, and choose GPUs by CUDA_VISIBLE_DEVICES"
        )
    return visible_gpus()


def visible_gpus() -> list[str]:
    """All that there are to be used."""
    if named := os.environ.get("CUDA_VISIBLE_DEVICES"):
        return [name.strip() for name in named.split(",") if name.strip()]
    return [str(index) for index in range(forkserver.call("runner.sweeps.check.build_jobs:gpus"))]
