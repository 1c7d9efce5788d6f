"""The interface of a search, which chooses each job by the results of the earlier ones."""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from runner.comparison.objectives import Objective
from runner.sweeps.jobs import Job, JobOutcome


class Search(Protocol):
    """Proposes one job after the other, and receives their results.

    Attributes:
        n_trials: number of configurations in all.
    """

    n_trials: int

    @property
    def repetitions(self) -> int:
        """Jobs of each configuration."""

    def repeat(self, key: str, values: Sequence[str]) -> None:
        """Make a job of each configuration for each of these seeds or folds; a second call, for each combination."""

    @property
    def remaining(self) -> int:
        """Jobs that are still to be run, besides those that were proposed already."""

    @property
    def unreported(self) -> int:
        """Results that its storage does not have yet, as it is away."""

    @property
    def is_waiting(self) -> bool:
        """Whether its storage is away, and it still waits for it."""

    def probes(self, first: int) -> list[Job]:
        """Return jobs to check only, numbered from `first`: together they have every possible value."""

    def check(self, objectives: Sequence[Objective], resumed: bool = False) -> None:
        """Check that it can start, before anything is created.

        Raises:
            ConfigError: it cannot.
        """

    def note(self, objectives: Sequence[Objective]) -> str:
        """Return a remark for the user; empty if there is none."""

    def open(self, folder: Path, objectives: Sequence[Objective], jobs: int = 0) -> None:
        """Start or resume in the folder of a sweep that has `jobs` jobs already."""

    def ask(self, number: int) -> Job | None:
        """Return the next job, with that number; None if there is none now."""

    def watch(self, job: Job) -> str | None:
        """Return why a running job should stop early; None if it should not."""

    def tell(self, job: Job, outcome: JobOutcome, values: Sequence[float] | None) -> None:
        """Take in how a job ended, and the values of its objectives."""

    def catch_up(self) -> None:
        """Report waiting results to a storage that was away."""

    def draw(self, folder: Path) -> list[str]:
        """Draw the search into the sweep's folder; return the paths of the plots in it."""
