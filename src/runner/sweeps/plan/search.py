"""The interface of a search, which chooses each job by the results of the earlier ones."""

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from omegaconf import DictConfig

from runner.comparison.objectives import SHOWN, Objective
from runner.errors import ConfigError, Problem
from runner.sweeps.jobs import Job, JobOutcome
from runner.sweeps.plan.method import Method


class Search(Method, ABC):
    """Proposes one job after the other, and receives their results.

    Attributes:
        n_trials: number of configurations in all.
    """

    n_trials: int
    retries_failed = False  # it has their results, and does not ask for them again
    suits_stacks = False

    @property
    def trials(self) -> int | None:
        """The number of configurations in all."""
        return self.n_trials

    def check_jobs(
        self, objectives: Sequence[Objective], configs: Mapping[int, DictConfig], metrics: Collection[str]
    ) -> None:
        """Check that something ranks the jobs.

        Raises:
            ConfigError: nothing does.
        """
        if objectives[0].direction == SHOWN:
            names = " or ".join(objective.metric for objective in objectives)
            text = "sweep.metric: the task measures no loss to search by"
            raise ConfigError(Problem("sweep.metric", text, f"write sweep.metric={names}", topic="missing"))

    @property
    @abstractmethod
    def remaining(self) -> int:
        """Jobs that are still to be run, besides those that were proposed already."""

    @property
    @abstractmethod
    def unreported(self) -> int:
        """Results that its storage does not have yet, as it is away."""

    @property
    @abstractmethod
    def is_waiting(self) -> bool:
        """Whether its storage is away, and it still waits for it."""

    @abstractmethod
    def open(self, folder: Path, objectives: Sequence[Objective], jobs: int = 0) -> None:
        """Start or resume in the folder of a sweep that has `jobs` jobs already."""

    @abstractmethod
    def ask(self, number: int) -> Job | None:
        """Return the next job, with that number; None if there is none now."""

    @abstractmethod
    def watch(self, job: Job) -> str | None:
        """Return why a running job should stop early; None if it should not."""

    @abstractmethod
    def tell(self, job: Job, outcome: JobOutcome, values: Sequence[float] | None) -> None:
        """Take in how a job ended, and the values of its objectives."""

    @abstractmethod
    def catch_up(self) -> None:
        """Report waiting results to a storage that was away."""

    @abstractmethod
    def draw(self, folder: Path) -> list[str]:
        """Draw the search into the sweep's folder; return the paths of the plots in it."""
