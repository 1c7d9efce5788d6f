"""Common parts of the cluster launchers: a sweep follows a job by the files in the job's folder."""

import contextlib
import os
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from runner.errors import ConfigError, Problem
from runner.rundir import journal, layout
from runner.sweeps.jobs import JobProgress, JobSpec
from runner.sweeps.launchers.launcher import ExitStatus, ResourceRequest
from runner.sweeps.launchers.slots import Slot
from runner.sweeps.launchers.supervisor import NODE, STOP

POLL_SECONDS = 1.0
"""Between two polls of a job: there may be hundreds, on a slow shared file system."""


class ClusterHandle(ABC):
    """A job that was submitted to a cluster.

    Args:
        spec: of the job.
    """

    grace = 60.0

    def __init__(self, spec: JobSpec) -> None:
        self._spec = spec
        self._next, self._offset, self._done = 0.0, 0, 0
        self._started = self._killed = False
        self._reports: list[JobProgress] = []
        self._status: ExitStatus | None = None

    @abstractmethod
    def poll(self) -> ExitStatus | None:
        """Ask the cluster how the job ended; None if it has not, or the cluster does not know."""

    @abstractmethod
    def cancel(self) -> None:
        """Have the cluster end the job, or never start it."""

    def has_started(self) -> bool:
        """Return whether a node runs it. Only this call reads the folder: no report precedes the job's start."""
        self._look()
        return self._started

    def waitables(self) -> Sequence[int]:
        """Return nothing: it has to be polled."""
        return []

    def read_progress(self) -> Iterator[JobProgress]:
        """Yield the content of its journal at the last poll."""
        while self._reports:
            yield self._reports.pop(0)

    def exit_status(self) -> ExitStatus | None:
        """Return how it had ended at the last poll; a killed job is not waited for."""
        return ExitStatus(None, "killed") if self._killed and self._status is None else self._status

    def request_stop(self) -> None:
        """Write a file into its folder; if it has not started, cancel it."""
        (self._spec.folder / STOP).touch()
        if not (self._spec.folder / NODE).exists():  # now, which may be after the last poll
            self.cancel()
            self._killed = True

    def kill(self) -> None:
        """Cancel it."""
        (self._spec.folder / STOP).touch()
        self.cancel()
        self._killed = True

    def close(self) -> None:
        """Remove the files by which the sweep and the node communicate."""
        for name in (STOP, NODE):
            with contextlib.suppress(OSError):
                (self._spec.folder / name).unlink(missing_ok=True)

    def _look(self) -> None:
        now = time.monotonic()
        if now < self._next or self._status is not None:
            return
        self._next = now + POLL_SECONDS
        self._status = self.poll()  # before the journal is read, which is complete if the job has ended
        folder = self._spec.folder
        self._started = (folder / NODE).exists() or (self._started and self._status is not None)
        if self._started:
            points, self._offset = journal.read(folder / layout.JOURNAL, self._offset)
            epochs = [point.step for point in points if point.name == "time/epoch_seconds"]
            self._done = max([self._done, *epochs])
            if points:
                metrics = {point.name: point.value for point in points}
                self._reports.append(JobProgress(self._done, self._spec.epochs, metrics))


def for_node(spec: JobSpec) -> JobSpec:
    """Add the user's own modules to the PYTHONPATH of a job on another machine; packages are the node's own."""
    installed = {str(Path(place).resolve()) for place in (sys.prefix, sys.base_prefix, sys.base_exec_prefix)}
    places = [Path(name or Path.cwd()).resolve() for name in sys.path]
    path = os.pathsep.join(str(place) for place in places if not installed & {str(p) for p in (place, *place.parents)})
    return replace(spec, environment=spec.environment | {"PYTHONPATH": path})


class Cluster:
    """Base of the launchers that submit jobs to a cluster."""

    is_remote, stacks = True, False

    def allocate(self, request: ResourceRequest) -> list[Slot]:
        """Return a slot per job, or as many as `sweep.jobs` says: the cluster has its own queue.

        Raises:
            ConfigError: a setting is about the GPUs of this machine.
        """
        settings = request.settings
        if settings.jobs_per_gpu != 1:
            text = (
                f"sweep.jobs_per_gpu={settings.jobs_per_gpu} works with hydra/launcher=local only; on Ray,"
                " hydra.launcher.ray.remote.num_gpus=0.5 shares a GPU"
            )
            raise ConfigError(Problem("sweep.jobs_per_gpu", text, "leave it out", topic="conflict"))
        self._limited = settings.jobs != "auto"
        count = min(int(settings.jobs), request.max_jobs) if self._limited else request.max_jobs
        threads = None if request.threads == "auto" else int(request.threads)
        return [Slot(number, threads) for number in range(max(1, count))]

    def find_running(self, folder: Path) -> set[int]:
        """Return none: the cluster ends a job when its sweep is gone."""
        return set()

    def resume_stacks(self, stacks: Sequence[Sequence[int]]) -> None:
        """Do nothing: each job is a task of its own."""

    def environment(self, slot: Slot) -> dict[str, str]:
        """Return the variables that a job has besides those of its node."""
        return slot.environment()

    def describe_limit(self, slots: Sequence[Slot]) -> str:
        """Return `2 jobs at a time, ` if `sweep.jobs` limits them."""
        return f"{len(slots)} job{'s' * (len(slots) > 1)} at a time, " if self._limited else ""
