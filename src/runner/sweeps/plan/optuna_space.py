"""The axes of a search as Optuna's distributions, and their values as typed."""

import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from hydra.core.override_parser.types import IntervalSweep, RangeSweep
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, Trial

from runner.errors import ConfigError, Problem
from runner.sweeps.plan.axes import DIGITS, format_interval, interval_of
from runner.sweeps.plan.random_search import make_draw
from runner.sweeps.plan.space import Axis, Space

PROBED = 2000
"""Points that are drawn at the start, to find some that `sweep.where` keeps."""


@dataclass(frozen=True)
class SearchedAxis:
    """An axis of the search space.

    Attributes:
        distribution: of its values.
        format: formats a value as it is typed.
        probes: typed values to check: all of them, or both ends of an interval.
    """

    distribution: BaseDistribution
    format: Callable[[Any], str]
    probes: list[str]


def searched_axes(axes: Iterable[Axis]) -> tuple[dict[str, SearchedAxis], list[Problem]]:
    """Return the axes as Optuna searches them, by key, and the problems of those that cannot be searched."""
    found: dict[str, SearchedAxis] = {}
    problems: list[Problem] = []
    for axis in axes:
        try:
            found[axis.key] = searched(axis)
        except ConfigError as error:
            problems += error.problems
    return found, problems


def searched(axis: Axis) -> SearchedAxis:
    """Return an axis as Optuna searches it.

    Raises:
        ConfigError: it cannot be searched.
    """
    value = None if axis.override is None else axis.override.value()
    if axis.override is not None and isinstance(value, IntervalSweep):
        interval = interval_of(axis.override)
        low, high, log = interval.low, interval.high, interval.log
        if interval.whole:
            return SearchedAxis(IntDistribution(int(low), int(high), log=log), str, [str(int(low)), str(int(high))])
        return SearchedAxis(FloatDistribution(low, high, log=log), _format, [_format(low), _format(high)])
    texts = list(dict.fromkeys(axis.values)) if axis.rows else list(axis.values)
    if isinstance(value, RangeSweep) and len(texts) > 1:
        numbers = [int(text) for text in texts] if all(_is_whole(text) for text in texts) else []
        steps = {after - before for before, after in pairwise(numbers)}
        if len(steps) == 1 and (step := steps.pop()) > 0:
            return SearchedAxis(IntDistribution(numbers[0], numbers[-1], step=step), str, texts)
    return SearchedAxis(CategoricalDistribution(texts), str, texts)


def _is_whole(text: str) -> bool:
    return text.lstrip("-").isdigit()


def _format(value: float) -> str:
    return f"{value:.{DIGITS}g}"


def distributions_of(axes: Mapping[str, SearchedAxis]) -> dict[str, BaseDistribution]:
    """Return the distribution of each axis, by the name that a study has for it."""
    return {key.lstrip("+"): axis.distribution for key, axis in axes.items()}


def typed_values(trial: Trial, axes: Mapping[str, SearchedAxis]) -> list[str]:
    """Return a trial's value of each axis, as typed."""
    return [axis.format(trial.params[key.lstrip("+")]) for key, axis in axes.items()]


def probe_points(space: Space, axes: Mapping[str, SearchedAxis]) -> list[tuple[str, ...]]:
    """Return points that together have every value, and both ends of each interval.

    Of those that `sweep.where` leaves out, other ones are drawn instead.

    Args:
        space: of the sweep.
        axes: its axes, as Optuna searches them.

    Raises:
        ConfigError: `sweep.where` leaves none.
    """
    values = [axis.probes for axis in axes.values()]
    longest = max(map(len, values))
    points = [tuple(of_axis[min(place, len(of_axis) - 1)] for of_axis in values) for place in range(longest)]
    if space.where is None:
        return points
    generator, draws = random.Random(0), [make_draw(axis) for axis in space.axes]
    kept, tried = dict[tuple[str, ...], None](), 0
    for tried in range(len(points) + PROBED):
        point = points[tried] if tried < len(points) else tuple(draw(generator) for draw in draws)
        if space.keeps(point):
            kept[point] = None
        if tried >= len(points) - 1 and len(kept) >= len(points):
            break
    space.where.close(tried + 1, len(kept))
    return list(kept)


def check_same_space(study: Any, trials: Sequence[FrozenTrial], space: Mapping[str, BaseDistribution]) -> None:
    """Check that a study searches these axes.

    Raises:
        ConfigError: its last trial was drawn from others.
    """
    former = next((trial.distributions for trial in reversed(trials) if trial.distributions), dict(space))
    if former != space:
        keys = [key for key in dict.fromkeys([*former, *space]) if former.get(key) != space.get(key)]
        was, now = (", ".join(f"{key}={_typed(of.get(key))}" for key in keys) for of in (former, space))
        key = "hydra.sweeper.study_name"
        text = f"{key}={study.study_name}: the study searches {was}, and this sweep {now}"
        suggestion = f"write the same axes, or {key}=<another>"
        raise ConfigError(Problem(key, text, suggestion, topic="conflict"))


def _typed(distribution: BaseDistribution | None) -> str:
    """Format an axis as it is typed."""
    if isinstance(distribution, CategoricalDistribution):
        return ",".join(map(str, distribution.choices))
    if isinstance(distribution, IntDistribution) and distribution.step != 1:
        return f"range({distribution.low},{distribution.high + 1},{distribution.step})"
    if isinstance(distribution, IntDistribution | FloatDistribution):
        whole = isinstance(distribution, IntDistribution)
        return format_interval(distribution.low, distribution.high, distribution.log, whole)
    return "one value"


def suggest(trial: Trial, name: str, distribution: BaseDistribution) -> None:
    """Let Optuna choose a trial's value, if it has none of that name yet."""
    if isinstance(distribution, FloatDistribution):
        trial.suggest_float(name, distribution.low, distribution.high, log=distribution.log)
    elif isinstance(distribution, IntDistribution):
        trial.suggest_int(name, distribution.low, distribution.high, step=distribution.step, log=distribution.log)
    elif isinstance(distribution, CategoricalDistribution):
        trial.suggest_categorical(name, distribution.choices)
