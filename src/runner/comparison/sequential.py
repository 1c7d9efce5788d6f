"""Seeds in stages: after each look at the values so far, a configuration that is surely not the best gets no more.

A configuration is stopped if another one that is still in is ahead of it: if the lower end of a one-sided interval of
their paired difference (Student's t) is above 0. The truly best configuration is stopped with a probability of at most
`ERROR`, over all looks together:

- Over configurations: it is lost only if one of the k-1 others seems to be ahead of it, so each of these one-sided
  comparisons has a (k-1)-th of the error. This is the event that Hsu's multiple comparisons with the best bound (Hsu
  1984, Annals of Statistics 12:1136); all k(k-1)/2 pairs do not have to hold.
- Over looks: the error is spent as Lan and DeMets do (1983, Biometrika 70:659), by their function that approximates
  Pocock's boundary, a(t) = ERROR ln(1 + (e - 1) t); t is the share of the seeds of the last look that decides. Each
  look has the increment of a(t) as its own error. That sum is a bound for whatever depends on whatever. Their sharper
  bounds by a joint normal distribution do not hold for the t of four seeds.

O'Brien and Fleming's boundary spends so little at four seeds, where t has wide tails, that nothing would stop there.

What is compared after the last look is another matter: all configurations that were never stopped have all seeds then,
and `paired.level_of_pair` corrects for all pairs of those that began.
"""

import math
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from runner.comparison.paired import ERROR, Bools, Floats, are_equal, critical_t, known
from runner.config.settings import FIRST_SEEDS

STEP = 2
"""Seeds between two looks."""


@dataclass(frozen=True)
class SeedPlan:
    """How many seeds each configuration gets, by the values so far; arrays (..., configurations).

    Attributes:
        seeds: in all, those that it has included.
        stopped: whether it is surely not the best; it keeps `seeds`.
        behind: by how much it is behind another one at least, if it is stopped; else NaN.
    """

    seeds: NDArray[np.intp]
    stopped: Bools
    behind: Floats


def looks(max_seeds: int) -> list[int]:
    """Return the numbers of seeds at which to look: 4, 6, 8, ... and `max_seeds`, the end."""
    return [*range(FIRST_SEEDS, max_seeds, STEP), max_seeds]


def errors(max_seeds: int) -> list[float]:
    """Return the error of each look but the last, at which there are no more seeds to save."""
    deciding = looks(max_seeds)[:-1]
    spent = [0.0, *(ERROR * math.log(1 + (math.e - 1) * look / deciding[-1]) for look in deciding)]
    return [after - before for before, after in pairwise(spent)]


def plan_seeds(values: Floats, max_seeds: int, staged: bool = True) -> SeedPlan:
    """Decide which configurations go on: those whose `seeds` are more than the runs that they have had.

    Call it when all runs that it has asked for have ended. If one has no value, its configuration cannot be compared:
    it waits with the runs that it has, neither stopped nor stopping others, until a resume brings the value.

    Args:
        values: (..., configurations, seeds), higher is better; NaN where there is none (yet). Columns beyond
            `max_seeds`, and values that a configuration would not have by this rule, change nothing.
        max_seeds: that a configuration may get.
        staged: false gives each of them at once.
    """
    missing = max(0, max_seeds - values.shape[-1])
    values = np.concatenate([known(values), np.full((*values.shape[:-1], missing), np.nan)], axis=-1)
    shape, stages = values.shape[:-1], looks(max_seeds) if staged else [max_seeds]
    seeds, stopped, behind = np.full(shape, stages[0]), np.zeros(shape, dtype=bool), np.full(shape, np.nan)
    running = np.ones(shape, dtype=bool)
    for look, following, error in zip(stages, stages[1:], errors(max_seeds), strict=False):
        seen = values[..., :look]
        running &= np.isfinite(seen).all(axis=-1)
        lead = _least_lead(np.where(running[..., None], seen, np.nan), error / max(1, shape[-1] - 1))
        out = lead > 0
        stopped |= out
        behind[out] = lead[out]
        running &= ~out
        running &= running.sum(axis=-1, keepdims=True) > 1
        seeds[running] = following
    return SeedPlan(seeds, stopped, behind)


def _least_lead(values: Floats, error: float) -> Floats:
    """Return by how much the others are ahead at least: the highest lower end of the differences to each (..., k)."""
    n, scale = values.shape[-1], np.abs(values).max(axis=-1)
    reach = critical_t(error, n - 1) / math.sqrt(n)
    lead = np.full(values.shape[:-1], -np.inf)
    for place in range(values.shape[-2]):
        differences = values[..., [place], :] - values
        ends = differences.mean(axis=-1) - reach * differences.std(axis=-1, ddof=1)
        differ = ~are_equal(differences, np.maximum(scale[..., [place]], scale))
        np.fmax(lead, ends, out=lead, where=differ)  # NaN is no lead
    return lead
