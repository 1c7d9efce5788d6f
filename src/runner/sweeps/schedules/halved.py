"""Jobs of successive halving: each starts once for every rung that it reaches."""

from pathlib import Path

from runner.rundir.manifest import PAUSE
from runner.saved.run import read_result
from runner.sweeps.jobs import Job, JobOutcome
from runner.sweeps.plan.halving import Halving
from runner.sweeps.plan.seeds import first_of_each
from runner.sweeps.prepared import PreparedSweep
from runner.sweeps.results.resume import ResumeAction, choose_action
from runner.sweeps.results.table import Table
from runner.sweeps.schedules.schedule import Schedule, not_started


class Halved(Schedule):
    """Starts jobs, and resumes those that halving promotes.

    Args:
        folder: of the sweep.
        prepared: the sweep.
        halving: decides which job trains, and how far.
    """

    def __init__(self, folder: Path, prepared: PreparedSweep, halving: Halving) -> None:
        super().__init__(folder, prepared)
        self._halving, self._others = halving, first_of_each(prepared.plan.jobs)
        followed = [number for number, action in prepared.actions.items() if action is ResumeAction.FOLLOW]
        again = list(filter(self._starts_again, prepared.actions))
        halving.open(folder, prepared.objectives[0], list(self._others), self._others, again, followed)
        self._started: list[int] = []
        self.expected = halving.starts_left

    def _starts_again(self, number: int) -> bool:
        """Return whether a job that has ended starts again: it had failed, or lacks plots and model."""
        action, result = self.prepared.actions[number], read_result(self.folder / str(number))
        is_finished = result.get("status") == "FINISHED"
        return action is ResumeAction.RESTART or (action is ResumeAction.RESUME and is_finished)

    def next(self) -> Job | None:
        """Return a job to start or to resume; None if there is none before another one ends."""
        number = self._halving.next()
        if number is None:
            return None
        actions = self.prepared.actions
        if actions[number] is not ResumeAction.FOLLOW or number in self._started:
            actions[number] = choose_action(self.folder / str(number), self.prepared.settings.artifacts)
        self._started.append(number)
        self.expected = len(self._started) + self._halving.starts_left
        return self.prepared.plan.jobs[number]

    @property
    def jobs(self) -> list[Job]:
        """The jobs of the sweep: not those with further seeds whose configuration has not reached the last rung."""
        return [
            job
            for job in self.prepared.plan.jobs
            if job.number in self._others or (self.folder / str(job.number)).exists()
        ]

    def pause_after(self, job: Job) -> int | None:
        """Return the epoch of the job's rung; None for the last one."""
        return self._halving.pause_after(job.number)

    def tell(self, job: Job, outcome: JobOutcome) -> None:
        """Take in how a job has ended."""
        self._halving.tell(job.number, outcome)
        self.expected = len(self._started) + self._halving.starts_left

    def count_left(self, table: Table) -> int:
        """Count how many times jobs could still start."""
        return 0 if self._halving.is_over else max(1, self._halving.starts_left)

    def is_complete(self, table: Table, left: int) -> bool:
        """Return whether all jobs have ended as planned: a paused one has, if no other is to start."""
        as_planned = table.count("FINISHED")
        if left or self._halving.is_over:
            as_planned += table.count(PAUSE)
        return as_planned + (not_started(table) if left else 0) == len(table.rows)
