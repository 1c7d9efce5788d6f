"""`sweep.seeds=auto`: seeds in stages; a configuration that is surely not the best gets no more.

The rule is that of `comparison/sequential.py`.
"""

import math
from collections.abc import Callable, Sequence

from runner.config.settings import FIRST_SEEDS
from runner.sweeps.jobs import Job
from runner.sweeps.plan.seeds import by_configuration


class SeedStages:
    """Decides which jobs run: of each configuration those with the first seeds, up to its stage.

    Args:
        jobs: of all configurations, with all seeds, those of a configuration in the order of the seeds.
        max_seeds: how many a configuration may get.
    """

    def __init__(self, jobs: Sequence[Job], max_seeds: int) -> None:
        self.max_seeds, self._jobs = max_seeds, by_configuration(jobs)

    def describe(self) -> str:
        """Describe how many jobs run: `16 jobs with the first 4 seeds; 40 at most, with 10`."""
        first, most = (sum(min(len(jobs), count) for jobs in self._jobs) for count in (FIRST_SEEDS, self.max_seeds))
        return f"{first} jobs with the first {FIRST_SEEDS} seeds; {most} at most, with {self.max_seeds}"

    def asked(self, gain: Callable[[Job], float | None]) -> list[Job]:
        """Return the jobs that run, by the results so far; more of them when all of these have ended.

        Args:
            gain: the value of a job, higher is better; None if it has none.
        """
        import numpy as np  # late: planning a sweep does not need it

        from runner.comparison.sequential import plan_seeds

        found = [[gain(job) for job in jobs] for jobs in self._jobs]
        gains = np.full((len(found), max(map(len, found))), math.nan)
        for row, values in zip(gains, found, strict=True):
            row[: len(values)] = [math.nan if value is None else value for value in values]
        counts = plan_seeds(gains, self.max_seeds).seeds
        return [
            job
            for jobs, count in zip(self._jobs, counts.tolist(), strict=True)
            for job in jobs[: min(count, len(jobs))]
        ]
