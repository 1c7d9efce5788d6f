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

    def tell(self, job: Job, outcome: JobOutcome) -> None:
        """Do nothing: the order does not depend on results."""
