"""Jobs that a search chooses by the results of the earlier ones, after those that it had chosen before a resume."""

from collections.abc import Sequence
from pathlib import Path

from runner.sweeps.jobs import Job, JobOutcome
from runner.sweeps.plan.search import Search
from runner.sweeps.prepared import PreparedSweep
from runner.sweeps.results.resume import ResumeAction
from runner.sweeps.results.table import Table, read_row
from runner.sweeps.schedules.in_order import InOrder
from runner.sweeps.schedules.schedule import Schedule


class Searched(InOrder):
    """Asks a search for the next job, and adds it to the plan.

    Args:
        folder: of the sweep.
        prepared: the sweep.
        search: that chooses the jobs.

    Raises:
        ConfigError: its storage cannot be used.
    """

    def __init__(self, folder: Path, prepared: PreparedSweep, search: Search) -> None:
        super().__init__(folder, prepared)
        search.open(folder, prepared.objectives, len(self.jobs))
        self._search, self._asked_all = search, False
        for job in filter(prepared.is_done, self.jobs):  # it may have ended while no sweep ran
            row = read_row(job, folder / str(job.number), prepared.objectives)
            search.tell(job, JobOutcome(row.status, row.reason, row.seconds or 0.0), row.measured)
        self.expected += search.remaining

    def next(self) -> Job | None:
        """Return the next job; None if the search is complete, or its storage away."""
        job = super().next()
        if job is None and not self._asked_all:
            job = self._ask()
            self._asked_all = job is None and not self.is_waiting
        return job

    def check_put_in(self) -> None:
        """Refuse: see `Schedule`."""
        Schedule.check_put_in(self)

    def put_in(self, job: Job) -> None:
        """Refuse likewise."""
        self.check_put_in()

    def _ask(self) -> Job | None:
        job = self._search.ask(len(self.jobs))
        if job is not None:
            self.jobs.append(job)
            self.prepared.actions[job.number] = ResumeAction.START
            self.prepared.save_plan(self.folder)
        return job

    @property
    def is_waiting(self) -> bool:
        """Whether the storage of the search is away, and it still waits for it."""
        return self._search.is_waiting

    def tell(self, job: Job, outcome: JobOutcome) -> None:
        """Report how a job has ended to the search."""
        row = read_row(job, self.folder / str(job.number), self.prepared.objectives)
        self._search.tell(job, outcome, row.measured)

    def give_up(self, running: Sequence[Job]) -> dict[int, str]:
        """Return why the search prunes running jobs, by number; a storage that was away gets waiting results."""
        self._search.catch_up()
        reasons = {job.number: self._search.watch(job) for job in running}
        return {number: reason for number, reason in reasons.items() if reason is not None}

    def count_left(self, table: Table) -> int:
        """Count the jobs that could still start, with those that the search has not chosen."""
        return super().count_left(table) + self._search.remaining

    def is_complete(self, table: Table, left: int) -> bool:
        """Return whether all jobs have ended as planned, and the search has their results."""
        is_asked = bool(left) or not self._search.remaining
        return super().is_complete(table, left) and is_asked and not self._search.unreported

    def resumes(self, table: Table) -> bool:
        """Return whether a resume would go on: it does not try a job again that has failed."""
        ended = table.count("FINISHED") + table.count("FAILED")
        return ended < len(table.rows) or bool(self._search.remaining or self._search.unreported)

    def draw(self) -> list[str]:
        """Draw the search; return the paths of the plots in the sweep's folder."""
        return self._search.draw(self.folder)
