"""Jobs with seeds in stages: further seeds only for configurations that may be the best."""

from collections import deque
from pathlib import Path

from runner.sweeps.jobs import Job, JobOutcome
from runner.sweeps.plan.stages import SeedStages
from runner.sweeps.prepared import PreparedSweep
from runner.sweeps.results.table import read_row
from runner.sweeps.schedules.schedule import Schedule


class Staged(Schedule):
    """Runs the jobs of the first seeds, and at each look, when all have ended, those of further seeds.

    Args:
        folder: of the sweep.
        prepared: the sweep.
        stages: decides which jobs the results so far ask for.
    """

    def __init__(self, folder: Path, prepared: PreparedSweep, stages: SeedStages) -> None:
        super().__init__(folder, prepared)
        self._stages = stages
        self._queue, self._seen, self._under_way = deque[Job](), set[int](), 0
        self.expected = 0
        self._look()

    def _look(self) -> None:
        """Queue the jobs that the results so far ask for."""
        asked = [job for job in self.jobs if job.number not in self._seen and not self.prepared.is_done(job)]
        self._queue.extend(asked)
        self._seen.update(job.number for job in asked)
        self.expected += len(asked)

    def next(self) -> Job | None:
        """Return the next job; None if all must end before the next look, or no configuration gets more seeds."""
        if not self._queue and not self._under_way:
            self._look()
        if not self._queue:
            return None
        self._under_way += 1
        return self._queue.popleft()

    def tell(self, job: Job, outcome: JobOutcome) -> None:
        """Note that a job has ended."""
        self._under_way -= 1

    @property
    def jobs(self) -> list[Job]:
        """The jobs of the sweep: not those with further seeds that its results so far do not ask for."""
        return self._stages.asked(self.prepared.plan.jobs, self._gain)

    def _gain(self, job: Job) -> float | None:
        objective = self.prepared.objectives[0]
        row = read_row(job, self.folder / str(job.number), [objective])
        return -objective.cost(row.value) if row.ran_to_end and row.value is not None else None
