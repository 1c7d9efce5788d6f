"""The interface between the pool and what runs the jobs: processes of this machine, or tasks of a cluster."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Protocol

from omegaconf import DictConfig

from runner.config.settings import SweepSettings
from runner.errors import ConfigError
from runner.sweeps.jobs import JobInfo, JobProgress, JobSpec
from runner.sweeps.launchers.slots import Slot


@dataclass(frozen=True)
class ExitStatus:
    """How a job's process ended.

    Attributes:
        code: its exit code, negative after a signal; None if it was lost together with its supervisor.
        description: the same for a reader.
    """

    code: int | None
    description: str


@dataclass(frozen=True)
class ResourceRequest:
    """The resources that a sweep asks its launcher for.

    Attributes:
        settings: of the sweep.
        threads: of each job, as in the config, or `auto`.
        max_jobs: the number of jobs; more slots are of no use.
        infos: facts about the jobs, by number.
        configs: their configs, by number.
        is_search: whether a search chooses further jobs by the results of the first ones.
    """

    settings: SweepSettings
    threads: int | str
    max_jobs: int
    infos: Mapping[int, JobInfo]
    configs: Mapping[int, DictConfig]
    is_search: bool = False

    @property
    def ranks(self) -> int:
        """The most ranks of a job."""
        return max((cfg.strategy.nproc_per_node or 1 for cfg in self.configs.values()), default=1)


class LauncherDied(ConfigError):
    """No more jobs can be started; those that run are not affected."""


class JobHandle(Protocol):
    """A job that a launcher has accepted.

    Attributes:
        grace: seconds that it may take to write its checkpoint after a request to stop.
    """

    grace: float

    def has_started(self) -> bool:
        """Return whether it runs, or has run; if not, it waits for resources. Called before the other methods."""

    def waitables(self) -> Sequence[Connection | int]:
        """Return what becomes readable when something happens; empty if it has to be polled."""

    def read_progress(self) -> Iterator[JobProgress]:
        """Yield each report since the last call."""

    def exit_status(self) -> ExitStatus | None:
        """Return how it ended; None while it has not."""

    def request_stop(self) -> None:
        """Ask it to write a checkpoint and end."""

    def kill(self) -> None:
        """End it at once."""

    def close(self) -> None:
        """Clean up after it has ended."""


class Launcher(Protocol):
    """Runs jobs.

    Attributes:
        is_remote: whether jobs run on other machines, whose devices and packages this one knows nothing about.
        stacks: whether it trains jobs as one program where that is possible.
    """

    is_remote: bool
    stacks: bool

    def allocate(self, request: ResourceRequest) -> list[Slot]:
        """Return the slots: one for each job that may be under way at a time.

        Raises:
            ConfigError: the resources do not exist.
        """

    def find_running(self, folder: Path) -> set[int]:
        """Return the jobs of an earlier start of a sweep that still run, or wait to; `start` then follows them."""

    def resume_stacks(self, stacks: Sequence[Sequence[int]]) -> None:
        """Get to know which jobs of a resumed sweep were trained as one program."""

    def open(self) -> None:
        """Get ready for jobs.

        Raises:
            ConfigError: the cluster cannot be reached.
        """

    def describe(self, slots: Sequence[Slot]) -> str:
        """Describe for a reader where the jobs run."""

    def environment(self, slot: Slot) -> dict[str, str]:
        """Return the environment variables of a job in a slot."""

    def start(self, specs: Sequence[JobSpec]) -> Sequence[JobHandle]:
        """Start jobs, all at once.

        Raises:
            ConfigError: the cluster refuses them.
        """

    def close(self) -> None:
        """Release everything: no more jobs follow."""
