"""What a sweep asks of a search, which chooses each of its jobs by those before it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from runner.comparison.objectives import Objective
from runner.sweeps.jobs import Job, JobOutcome


class Search(Protocol):
    """Asked for one job after the other, and given what each has come to."""

    n_trials: int
    """How many jobs it is to have altogether."""

    @property
    def left(self) -> int:
        """How many are still to be run, besides those that are jobs already."""

    @property
    def untold(self) -> int:
        """Results that it has not got yet, as its storage is away."""

    @property
    def waits(self) -> bool:
        """Whether its storage is away, and is still waited for."""

    def probes(self, first: int) -> list[Job]:
        """Jobs that are only checked, numbered from `first` on: every value that can be chosen, once."""

    def check(self, objectives: Sequence[Objective], resumed: bool = False) -> None:
        """See that it can begin, before anything else is made.

        Raises:
            ConfigError: it cannot.
        """

    def note(self, objectives: Sequence[Objective]) -> str:
        """What a person should know of it; empty if there is nothing."""

    def open(self, folder: Path, objectives: Sequence[Objective], jobs: int = 0) -> None:
        """Begin, or go on, in the folder of a sweep that has so many jobs already."""

    def ask(self, number: int) -> Job | None:
        """The next job, with that number; None if there is none now."""

    def watch(self, job: Job) -> str | None:
        """Why a running job should end early; None if it should not."""

    def tell(self, job: Job, fate: JobOutcome, values: Sequence[float] | None) -> None:
        """Take in how a job has ended, and what it has measured."""

    def catch_up(self) -> None:
        """Tell a storage that was away what it has missed."""

    def draw(self, folder: Path) -> list[str]:
        """Draw how it went into the sweep's folder; the paths of the pictures in it."""
