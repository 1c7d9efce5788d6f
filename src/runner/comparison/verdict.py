"""The verdict on configurations with several seeds: the best mean, and what is surely worse than it.

See `paired.py` for the intervals, and `sequential.py` for configurations that were stopped early.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

import numpy as np

from runner.comparison import paired, sequential
from runner.comparison.objectives import Objective
from runner.comparison.paired import Floats
from runner.comparison.repetitions import Point, Repetition, find_paused, name_points, tabulate
from runner.comparison.sequential import SeedPlan
from runner.rundir.looks import Look


class Outcome(StrEnum):
    """What is known of a configuration."""

    BEST = "best"
    """It has the best mean."""

    WORSE = "worse"
    """Its interval to the best is on one side of 0."""

    UNDECIDED = "cannot be told"
    IDENTICAL = "identical"
    """It has the value of the best with each seed."""

    NO_VERDICT = "no verdict"
    """There are fewer than three seeds, or the differences to the best are all equal."""

    STOPPED = "not the best"
    """It was stopped early, as it is surely not the best."""

    PAUSED = "paused"
    """Halving has paused it, by the value of its first seed."""

    UNRANKED = "not ranked"
    """It lacks values of seeds."""


@dataclass(frozen=True)
class Gap:
    """By how much the best is better than another configuration, paired by seed. None: unknown.

    Attributes:
        difference: of the means, 0 or more.
        interval: the ends of the simultaneous 95 % interval.
        plain_interval: those of the uncorrected one.
        p: two-sided, uncorrected.
        p_corrected: times the number of pairs.
        smallest: if the two cannot be told apart: a difference that more seeds would tell.
        seeds_needed: to tell it with a probability of 80 %; None: above `paired.MANY`.
        at_least: of a configuration that was stopped: it is behind another one by more than this.
    """

    difference: float | None = None
    interval: tuple[float, float] | None = None
    plain_interval: tuple[float, float] | None = None
    p: float | None = None
    p_corrected: float | None = None
    smallest: float | None = None
    seeds_needed: int | None = None
    at_least: float | None = None


@dataclass(frozen=True)
class Standing:
    """A configuration and how it compares with the best.

    Attributes:
        name: `lr=0.03 model=cnn`.
        point: its values by key.
        values: the finite values of the metric by seed.
        asked: how many seeds it should have.
        outcome: the verdict in a word.
        gap: to the best.
    """

    name: str
    point: Point
    values: dict[str, float]
    asked: int
    outcome: Outcome
    gap: Gap = Gap()

    @property
    def n(self) -> int:
        """The number of values."""
        return len(self.values)

    @property
    def mean(self) -> float | None:
        """The mean of the values."""
        return float(np.mean(list(self.values.values()))) if self.values else None

    @property
    def sd(self) -> float | None:
        """Their standard deviation (n - 1); None for fewer than two."""
        return float(np.std(list(self.values.values()), ddof=1)) if self.n > 1 else None

    @property
    def interval(self) -> tuple[float, float] | None:
        """The ends of the 95 % interval of the mean alone, by Student's t; None without a spread."""
        if self.mean is None or not self.sd:
            return None
        half = paired.critical_t(paired.ERROR / 2, self.n - 1) * self.sd / math.sqrt(self.n)
        return self.mean - half, self.mean + half


@dataclass(frozen=True)
class Verdict:
    """The configurations, the best first.

    Attributes:
        objective: the metric and its direction.
        seeds: of which runs were asked for, in order.
        standings: ranked by mean, then those that were stopped, then those that were paused or lack values.
        compared: the configurations whose pairs the intervals are corrected for.
        sign_flip: whether the intervals are of the sign-flip test, not of Student's t.
        reason: why the best is compared with nothing; empty if it is.
        max_seeds: if seeds came in stages: the most of a configuration.
        smallest_difference: that matters, if it was given.
        looks: at test parts, by which models of these runs were chosen for a registered model, or not.
    """

    objective: Objective
    seeds: tuple[str, ...]
    standings: tuple[Standing, ...]
    compared: int
    sign_flip: bool = False
    reason: str = ""
    max_seeds: int | None = None
    smallest_difference: float | None = None
    looks: tuple[Look, ...] = ()

    @property
    def best(self) -> Standing | None:
        """The configuration with the best mean."""
        first = self.standings[0]
        return first if first.outcome is Outcome.BEST else None

    @property
    def unranked(self) -> list[Standing]:
        """The configurations that lack values."""
        return [standing for standing in self.standings if standing.outcome is Outcome.UNRANKED]

    @property
    def paused(self) -> int:
        """The number of configurations that halving has paused."""
        return sum(standing.outcome is Outcome.PAUSED for standing in self.standings)

    @property
    def seeds_to_tell(self) -> int | None:
        """How many seeds would tell what cannot be told, for the most part; None if nothing is to gain, or unknown."""
        if self.best is not None and any(standing.outcome is Outcome.NO_VERDICT for standing in self.standings):
            return paired.MIN_PAIRS if self.best.n < paired.MIN_PAIRS else None
        gaps = [each.gap for each in self.standings if each.outcome is Outcome.UNDECIDED]
        more = [gap.seeds_needed for gap in gaps if gap.seeds_needed is not None]
        return max(more) if self.best is not None and more and max(more) > self.best.n else None

    @property
    def is_alone(self) -> bool:
        """Whether there is only one configuration."""
        return len(self.standings) == 1

    @property
    def pairs(self) -> int:
        """The number of pairs that the intervals hold for together."""
        return paired.count_pairs(self.compared)

    @property
    def level(self) -> float:
        """The error of a single pair."""
        return paired.level_of_pair(self.compared)


def judge(
    repetitions: Sequence[Repetition],
    objective: Objective,
    smallest_difference: float | None = None,
    max_seeds: int | None = None,
) -> Verdict:
    """Judge configurations by their runs.

    A value that is not finite counts as missing: its configuration has fewer seeds than asked for, and is not ranked.

    Args:
        repetitions: a run of each configuration for each seed that was asked for, with or without a value; at least
            one. Seeds are in the order of their first run.
        objective: the metric and its direction, `min` or `max`.
        smallest_difference: that matters, above 0; by default half of the width of each interval.
        max_seeds: if seeds came in stages (`sequential.plan_seeds`): the most of a configuration.
    """
    points, seeds, values = tabulate(repetitions)
    gains = values if objective.direction == "max" else -values
    plan = sequential.plan_seeds(gains, max_seeds or len(seeds), staged=max_seeds is not None)
    ranked = _rank(gains, plan)
    compared = len(ranked) if max_seeds is None else len(points)
    paused = find_paused(points, repetitions)
    judged = {place: (Outcome.PAUSED if place in paused else Outcome.UNRANKED, Gap()) for place in range(len(points))}
    if ranked:
        first, n = ranked[0], int(plan.seeds[ranked[0]])
        best = _Best(gains[first, :n], compared, smallest_difference)
        judged |= {place: best.compare(gains[place, :n]) for place in ranked} | {first: (Outcome.BEST, Gap())}
    for place in np.flatnonzero(plan.stopped).tolist():
        judged[place] = Outcome.STOPPED, Gap(at_least=float(plan.behind[place]))
    standings = [
        Standing(name, point, _finite(seeds, row), int(asked), *judged[place])
        for place, (name, point, row, asked) in enumerate(
            zip(name_points(points), points, values, plan.seeds, strict=True)
        )
    ]
    others = sorted(set(judged) - set(ranked), key=lambda place: _sort_unranked(standings[place], objective))
    return Verdict(
        objective,
        tuple(seeds),
        tuple(standings[place] for place in (*ranked, *others)),
        compared,
        bool(ranked) and paired.uses_sign_flip(n, paired.level_of_pair(compared)),
        _why_nothing_is_compared(ranked, plan, len(paused - set(ranked))),
        max_seeds,
        smallest_difference,
    )


def _finite(seeds: Sequence[str], values: Floats) -> dict[str, float]:
    return {seed: float(value) for seed, value in zip(seeds, values, strict=True) if np.isfinite(value)}


def _rank(gains: Floats, plan: SeedPlan) -> list[int]:
    """Return the configurations that have all their seeds and were not stopped, the best mean first."""
    complete = [
        place
        for place, (asked, out) in enumerate(zip(plan.seeds, plan.stopped, strict=True))
        if not out and asked <= gains.shape[1] and np.isfinite(gains[place, :asked]).all()
    ]
    return sorted(complete, key=lambda place: -gains[place, : plan.seeds[place]].mean())


def _sort_unranked(standing: Standing, objective: Objective) -> tuple[bool, bool, float]:
    """Return what sorts configurations without a rank: those that were stopped first, then by mean."""
    mean = standing.mean
    return standing.outcome is not Outcome.STOPPED, mean is None, objective.cost(mean or 0.0)


def _why_nothing_is_compared(ranked: Sequence[int], plan: SeedPlan, paused: int) -> str:
    if not ranked:
        return f"no configuration has a value for each of {plan.seeds.max()} seeds"
    if len(ranked) == 1 and not plan.stopped.any():
        if len(plan.seeds) == 1:
            return "there is only one configuration"
        are_paused = paused == len(plan.seeds) - 1
        return "the others were paused" if are_paused else "no other configuration has a value for each seed"
    n = int(plan.seeds[ranked[0]])
    if len(ranked) > 1 and n < paired.MIN_PAIRS:
        return f"{paired.MIN_PAIRS} seeds are needed, and there {'is 1' if n == 1 else f'are {n}'}"
    return ""


@dataclass(frozen=True)
class _Best:
    """The best configuration.

    Attributes:
        values: by seed, higher is better.
        compared: the configurations whose pairs the intervals are corrected for.
        smallest: the difference that matters; None: half of the width of an interval.
    """

    values: Floats
    compared: int
    smallest: float | None

    def compare(self, others: Floats) -> tuple[Outcome, Gap]:
        """Compare with another configuration by its values for the same seeds."""
        differences, scale = self.values - others, max(np.abs(self.values).max(), np.abs(others).max())
        difference = float(differences.mean())
        if np.abs(differences).max() <= paired.ROUNDING * scale:
            return Outcome.IDENTICAL, Gap(0.0)
        if len(differences) < paired.MIN_PAIRS or paired.are_equal(differences, scale):
            return Outcome.NO_VERDICT, Gap(difference)
        level = paired.level_of_pair(self.compared)
        found = paired.compare(differences, level, scale)
        low, high, p = float(found.low), float(found.high), float(found.p)
        corrected = min(1.0, p * paired.count_pairs(self.compared))
        gap = Gap(difference, (low, high), (float(found.plain_low), float(found.plain_high)), p, corrected)
        if low > 0:
            return Outcome.WORSE, gap
        smallest = self.smallest or (high - low) / 2
        needed = paired.pairs_needed(smallest, float(found.sd), level)
        return Outcome.UNDECIDED, replace(gap, smallest=smallest, seeds_needed=needed)
