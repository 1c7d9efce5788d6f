"""The configurations of a sweep: the jobs of one differ in nothing but their seed or fold, and their mean ranks it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, stdev
from typing import TYPE_CHECKING

from runner.comparison.objectives import Objective, pareto_front
from runner.comparison.repetitions import name_points
from runner.sweeps.plan.seeds import FOLD, REPEATED, configuration_of, repetition_of

if TYPE_CHECKING:
    from runner.sweeps.results.table import Row


@dataclass(frozen=True)
class Configuration:
    """Jobs that differ only in their seed, or fold.

    Attributes:
        name: the values that tell it from others: `lr=0.1 model=cnn`.
        point: their common values.
        rows: its jobs that have finished and have all values, the best first; of several with the same seed and fold,
            as a search may draw a point again, the first.
        asked: how many of them it should have.
        folds: the number of folds; 0 if they have none.
    """

    name: str
    point: Mapping[str, str]
    rows: "tuple[Row, ...]"
    asked: int
    folds: int = 0

    @property
    def values(self) -> list[float]:
        """The values of the first objective."""
        return [measured[0] for measured in self._measured]

    @property
    def _measured(self) -> list[tuple[float, ...]]:
        return [row.measured for row in self.rows if row.measured is not None]

    @property
    def is_complete(self) -> bool:
        """Whether it is ranked: all of its jobs have finished."""
        return len(self.rows) == self.asked

    @property
    def means(self) -> tuple[float, ...] | None:
        """The mean of each objective; None without a value."""
        return tuple(map(mean, zip(*self._measured, strict=True))) if self.rows else None

    @property
    def mean(self) -> float | None:
        """The mean of the first objective."""
        return self.means[0] if self.means else None

    @property
    def std(self) -> float | None:
        """The sample standard deviation, which divides by n - 1; None for fewer than two values."""
        return stdev(self.values) if len(self.rows) > 1 else None

    @property
    def interval(self) -> tuple[float, float] | None:
        """The 95 % interval of the mean over all folds of all seeds; None without folds, or if some are missing."""
        if not self.folds or not self.is_complete:
            return None
        from runner.comparison.overlapping import overlapping_interval  # late: NumPy

        return overlapping_interval(self.values, self.folds)


def group(rows: "Sequence[Row]", objectives: Sequence[Objective]) -> list[Configuration]:
    """Group jobs by configuration: those that are ranked first, the best mean first.

    Args:
        rows: the jobs of a sweep.
        objectives: of the sweep.

    Returns:
        Empty if neither the seed nor the fold is an axis.
    """
    if not any(key in row.job.point for row in rows for key in REPEATED):
        return []
    jobs: dict[tuple[tuple[str, str], ...], list[Row]] = {}
    for row in rows:
        jobs.setdefault(configuration_of(row.job.point), []).append(row)
    asked = max(len({repetition_of(row.job.point) for row in of_point}) for of_point in jobs.values())
    points = list(map(dict, jobs))
    first = objectives[0]
    found = []
    for name, point, of_point in zip(name_points(points), points, jobs.values(), strict=True):
        ended = [row for row in reversed(of_point) if row.ran_to_end and row.measured]
        finished = sorted({repetition_of(row.job.point): row for row in ended}.values(), key=lambda row: row.job.number)
        finished.sort(key=lambda row: first.cost(row.value or 0.0))
        folds = len({row.job.point[FOLD] for row in of_point if FOLD in row.job.point})
        found.append(Configuration(name, point, tuple(finished), asked, folds))
    return sorted(found, key=lambda c: (not c.is_complete, c.mean is None, first.cost(c.mean or 0.0)))


def front(configurations: Sequence[Configuration], objectives: Sequence[Objective]) -> list[Configuration]:
    """Return the ranked configurations on the Pareto front of their means."""
    ranked = [each for each in configurations if each.is_complete and each.means]
    return [ranked[place] for place in pareto_front([each.means or () for each in ranked], objectives)]
