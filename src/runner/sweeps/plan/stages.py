"""`sweep.seeds=auto`: seeds in stages; a configuration that is surely not the best gets no more.

The rule is that of `comparison/sequential.py`.
"""

import math
from collections.abc import Callable, Collection, Mapping, Sequence

from omegaconf import DictConfig

from runner.comparison.objectives import SHOWN, Objective
from runner.config.settings import FIRST_SEEDS
from runner.errors import ConfigError, Problem
from runner.sweeps.jobs import Job
from runner.sweeps.plan.method import Method
from runner.sweeps.plan.seeds import by_configuration


class SeedStages(Method):
    """Decides which jobs run: of each configuration those with the first seeds, up to its stage.

    Args:
        max_seeds: how many a configuration may get.
    """

    compares_always = True  # a higher `sweep.max_seeds` asks for more jobs

    def __init__(self, max_seeds: int) -> None:
        self.max_seeds = max_seeds

    def notes(self, jobs: Sequence[Job], objectives: Sequence[Objective], config: DictConfig) -> list[str]:
        """Return how many jobs run: `16 jobs with the first 4 seeds; 40 at most, with 10`."""
        sizes = list(map(len, by_configuration(jobs)))
        first, most = (sum(min(size, count) for size in sizes) for count in (FIRST_SEEDS, self.max_seeds))
        return [f"{first} jobs with the first {FIRST_SEEDS} seeds; {most} at most, with {self.max_seeds}"]

    def check_jobs(
        self, objectives: Sequence[Objective], configs: Mapping[int, DictConfig], metrics: Collection[str]
    ) -> None:
        """Check that one metric ranks the configurations.

        Raises:
            ConfigError: there are two, or none.
        """
        if len(objectives) > 1 or objectives[0].direction == SHOWN:
            text = "sweep.seeds=auto: seeds come in stages by one metric that ranks configurations"
            instead = f"write sweep.metric={objectives[0].metric}"
            raise ConfigError(Problem("sweep.metric", text, instead, topic="conflict"))

    def asked(self, jobs: Sequence[Job], gain: Callable[[Job], float | None]) -> list[Job]:
        """Return the jobs that run, by the results so far; more of them when all of these have ended.

        Args:
            jobs: of all configurations, with all seeds, those of a configuration in the order of the seeds.
            gain: the value of a job, higher is better; None if it has none.
        """
        import numpy as np  # late: planning a sweep does not need it

        from runner.comparison.sequential import plan_seeds

        groups = by_configuration(jobs)
        found = [[gain(job) for job in group] for group in groups]
        gains = np.full((len(found), max(map(len, found))), math.nan)
        for row, values in zip(gains, found, strict=True):
            row[: len(values)] = [math.nan if value is None else value for value in values]
        counts = plan_seeds(gains, self.max_seeds).seeds.tolist()
        return [job for group, count in zip(groups, counts, strict=True) for job in group[: min(count, len(group))]]
