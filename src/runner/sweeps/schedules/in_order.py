"""All jobs of the plan, in the order of their numbers."""

from collections import deque
from pathlib import Path

from runner.sweeps.jobs import Job, JobOutcome
from runner.sweeps.prepared import PreparedSweep
from runner.sweeps.schedules.schedule import Schedule


class InOrder(Schedule):
    """Runs the jobs that are not done yet, one after the other."""

    def __init__(self, folder: Path, prepared: PreparedSweep) -> None:
        super().__init__(folder, prepared)
        self._queue = deque(job for job in self.jobs if not prepared.is_done(job))
        self.expected = len(self._queue)

    def next(self) -> Job | None:
        """Return the next job; None if all have been started."""
        return self._queue.popleft() if self._queue else None

    def take_out(self, number: int) -> bool:
        """Do not start a job that waits for its turn; returns whether it did."""
        left = [job for job in self._queue if job.number != number]
        is_waiting = len(left) < len(self._queue)
        self._queue, self.expected = deque(left), self.expected - is_waiting
        return is_waiting

    def check_put_in(self) -> None:
        """Do nothing: results do not matter."""

    def put_in(self, job: Job) -> None:
        """Start a job after all others."""
        self._queue.append(job)
        self.expected += 1

    def tell(self, job: Job, outcome: JobOutcome) -> None:
        """Do nothing: the order does not depend on results."""
