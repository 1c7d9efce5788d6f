"""The interface of a schedule, with the answers of one whose jobs are all known and run once."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path

from runner.errors import ConfigError, Problem
from runner.rundir.requests import STEERED
from runner.sweeps.jobs import Job, JobOutcome
from runner.sweeps.launchers.pool import NOT_STARTED
from runner.sweeps.prepared import PreparedSweep
from runner.sweeps.results.table import Table


class Schedule(ABC):
    """Decides which job of a running sweep is next.

    Args:
        folder: of the sweep.
        prepared: the sweep.

    Attributes:
        expected: how many jobs this start of the sweep will start, as far as is known.
    """

    expected: int

    def __init__(self, folder: Path, prepared: PreparedSweep) -> None:
        self.folder, self.prepared = folder, prepared

    @abstractmethod
    def next(self) -> Job | None:
        """Return the next job; None if there is none now, and none at all if no job runs and it does not wait."""

    @property
    def is_waiting(self) -> bool:
        """Whether there may be a next job though no job runs."""
        return False

    @property
    def jobs(self) -> list[Job]:
        """The jobs that the sweep has so far: the rows of its table."""
        return self.prepared.plan.jobs

    def pause_after(self, job: Job) -> int | None:
        """Return the epoch after which a job that `next` has returned pauses; None if it trains to its end."""
        return None

    @abstractmethod
    def tell(self, job: Job, outcome: JobOutcome) -> None:
        """Take in how a job has ended."""

    def take_out(self, number: int) -> bool:
        """Do not start a job that has not started; returns whether it was about to."""
        return False

    def put_in(self, job: Job) -> None:
        """Start a job that the user asks for: one that was stopped, or a new one; see `check_put_in`."""
        self.check_put_in()

    def check_put_in(self) -> None:
        """Check that the user can say which job trains.

        Raises:
            ConfigError: this schedule decides it by results.
        """
        text = "the sweep itself decides by results which job trains next"
        raise ConfigError(Problem("", text, "start another sweep for the job", topic="conflict"))

    def give_up(self, running: Sequence[Job]) -> dict[int, str]:
        """Return why running jobs should stop early, by number: asked every 0.2 s or more often."""
        return {}

    def count_left(self, table: Table) -> int:
        """Count the jobs that could still start, when it is too late for that."""
        return not_started(table)

    def is_complete(self, table: Table, left: int) -> bool:
        """Return whether all jobs have ended as planned, but for those `left` for a resume, as it is too late."""
        stopped = sum(row.status == "KILLED" and row.reason == STEERED for row in table.rows)
        return table.count("FINISHED") + stopped + (not_started(table) if left else 0) == len(table.rows)

    def resumes(self, table: Table) -> bool:
        """Return whether a resume would go on with a sweep that is not complete."""
        return True

    def draw(self) -> list[str]:
        """Draw what the jobs were chosen by; return the paths of the plots in the sweep's folder."""
        return []


def not_started(table: Table) -> int:
    """Count the jobs that have not started, also those that waited in the queue of a cluster."""
    return table.count("NOT STARTED") + sum(row.reason == NOT_STARTED for row in table.rows)
