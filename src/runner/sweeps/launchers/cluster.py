"""What the engines of clusters have in common: the sweep follows a job by what it finds in the job's folder."""

import contextlib
import os
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from runner.errors import ConfigError
from runner.rundir import journal, layout
from runner.sweeps.jobs import JobProgress, JobSpec
from runner.sweeps.launchers.launcher import ExitStatus, ResourceRequest
from runner.sweeps.launchers.slots import Slot
from runner.sweeps.launchers.supervisor import BEGUN, END

LOOK_SECONDS = 1.0
"""Between two looks at a job: there may be hundreds, on a file system that is far away."""


class ClusterWork(ABC):
    """A job that was handed to a cluster.

    Args:
        task: what it is to do.
    """

    grace = 60.0

    def __init__(self, task: JobSpec) -> None:
        self._task = task
        self._next, self._offset, self._done = 0.0, 0, 0
        self._began = self._killed = False
        self._heard: list[JobProgress] = []
        self._ended: ExitStatus | None = None

    @abstractmethod
    def outcome(self) -> ExitStatus | None:
        """Its end, if the engine knows of it."""

    @abstractmethod
    def cancel(self) -> None:
        """Have the engine end it, or never begin it."""

    def begun(self) -> bool:
        """Whether a node has taken it; this is what looks, so that nothing is heard of one that has not begun."""
        self._look()
        return self._began

    def ends(self) -> Sequence[int]:
        """Nothing: it is to be asked."""
        return []

    def heard(self) -> Iterator[JobProgress]:
        """What its journal told at the last look."""
        while self._heard:
            yield self._heard.pop(0)

    def ended(self) -> ExitStatus | None:
        """Its end at the last look; of one that was killed nobody waits to hear."""
        return ExitStatus(None, "killed") if self._killed and self._ended is None else self._ended

    def tell_to_end(self) -> None:
        """By a file in its folder; of one that has not begun, the engine is told."""
        (self._task.folder / END).touch()
        if not (self._task.folder / BEGUN).exists():  # now, and not at the last look
            self.cancel()
            self._killed = True

    def kill(self) -> None:
        """By the engine."""
        (self._task.folder / END).touch()
        self.cancel()
        self._killed = True

    def close(self) -> None:
        """Take away what was for its node."""
        for name in (END, BEGUN):
            with contextlib.suppress(OSError):
                (self._task.folder / name).unlink(missing_ok=True)

    def _look(self) -> None:
        now = time.monotonic()
        if now < self._next or self._ended is not None:
            return
        self._next = now + LOOK_SECONDS
        self._ended = self.outcome()  # first, so that the journal that is read then is whole
        folder = self._task.folder
        self._began = (folder / BEGUN).exists() or (self._began and self._ended is not None)
        if self._began:
            points, self._offset = journal.read(folder / layout.JOURNAL, self._offset)
            epochs = [point.step for point in points if point.name == "time/epoch_seconds"]
            self._done = max([self._done, *epochs])
            if points:
                metrics = {point.name: point.value for point in points}
                self._heard.append(JobProgress(self._done, self._task.epochs, metrics))


def for_node(task: JobSpec) -> JobSpec:
    """A task that finds, on another machine, the user's modules that are found here; packages are the node's own."""
    installed = {str(Path(place).resolve()) for place in (sys.prefix, sys.base_prefix, sys.base_exec_prefix)}
    places = [Path(name or Path.cwd()).resolve() for name in sys.path]
    path = os.pathsep.join(str(place) for place in places if not installed & {str(p) for p in (place, *place.parents)})
    return replace(task, environment=task.environment | {"PYTHONPATH": path})


class Cluster:
    """What an engine on other machines has in common with the next."""

    elsewhere = True

    def slots(self, asked: ResourceRequest) -> list[Slot]:
        """As many as there are jobs, or as `sweep.jobs` says: the engine has its own queue.

        Raises:
            ConfigError: a setting is for the GPUs of this machine.
        """
        settings = asked.settings
        if settings.jobs_per_gpu != 1:
            raise ConfigError(
                f"sweep.jobs_per_gpu={settings.jobs_per_gpu} is for hydra/launcher=local: here the engine shares GPUs,"
                " Ray by hydra.launcher.ray.remote.num_gpus=0.5"
            )
        self._limited = settings.jobs != "auto"
        count = min(int(settings.jobs), asked.at_most) if self._limited else asked.at_most
        threads = None if asked.threads == "auto" else int(asked.threads)
        return [Slot(number, threads) for number in range(max(1, count))]

    def under_way(self, folder: Path) -> set[int]:
        """None, as an engine ends what nobody waits for."""
        return set()

    def environment(self, slot: Slot) -> dict[str, str]:
        """What a job finds in its environment besides what its node has."""
        return slot.environment()

    def at_most(self, slots: Sequence[Slot]) -> str:
        """`2 jobs at a time, `, where `sweep.jobs` says so."""
        return f"{len(slots)} job{'s' * (len(slots) > 1)} at a time, " if self._limited else ""
