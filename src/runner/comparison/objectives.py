"""What makes one job of a sweep better than another: a metric, or two that are weighed against each other."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from runner.config.settings import SweepSettings
from runner.errors import ConfigError, did_you_mean
from runner.util.metric_names import higher_is_better

AT_MOST = 2


@dataclass(frozen=True)
class Objective:
    """A metric that is to be as good as possible.

    Attributes:
        metric: its name.
        direction: `min` or `max`, which is better.
    """

    metric: str
    direction: str

    def cost(self, value: float) -> float:
        """The value, or its negative: the lower the better."""
        return value if self.direction == "min" else -value


def direction_of(metric: str, built: Sequence[Any] = ()) -> str:
    """`min` or `max`, as follows from the metric, or as the jobs' losses say: rates rise, times fall."""
    rises = higher_is_better(metric) or any(metric in each.higher_is_better for each in built)
    return "max" if rises or metric.startswith("throughput/") else "min"


def objectives_of(settings: SweepSettings, built: Sequence[Any]) -> list[Objective]:
    """What the jobs are judged by.

    Args:
        settings: of the sweep.
        built: what is known of its jobs: `metrics`, `monitor` and `higher_is_better`.

    Raises:
        ConfigError: it is not measured by all, they are to be judged by different metrics, or it is not one or two.
    """
    measured = [name for name in built[0].metrics if all(name in each.metrics for each in built)]
    metrics, directions = _as_list(settings.metric), _as_list(settings.direction)
    if not metrics:
        monitors = sorted({each.monitor for each in built})
        if len(monitors) > 1:
            raise ConfigError(
                f"the jobs are judged by different metrics ({', '.join(monitors)}): write sweep.metric={measured[0]}"
            )
        metrics = monitors
    if any(metric.startswith("[") for metric in metrics):
        raise ConfigError(f"sweep.metric='{metrics[0]}' is a text, and no list: write it without quotes of its own")
    problems = [
        f"sweep.metric={metric} is not measured by all jobs: {did_you_mean(metric, measured)}"
        for metric in metrics
        if metric not in measured
    ]
    if len(metrics) > AT_MOST or len(set(metrics)) < len(metrics):
        problems.append(f"sweep.metric=[{','.join(metrics)}]: write one metric, or two different ones")
    if directions and len(directions) != len(metrics):
        problems.append(
            f"sweep.direction=[{','.join(directions)}]: write one for each of {', '.join(metrics)}, or null"
        )
    if problems:
        raise ConfigError(*problems)
    ways = directions or [direction_of(metric, built) for metric in metrics]
    return [Objective(metric, way) for metric, way in zip(metrics, ways, strict=True)]


def _as_list(value: Any) -> list[str]:
    if value is None:
        return []
    return [str(item) for item in value] if isinstance(value, list | tuple) else [str(value)]


def front(values: Sequence[Sequence[float]], objectives: Sequence[Objective]) -> list[int]:
    """The Pareto front: the places of those that no other is at least as good as in everything, and better in one.

    Args:
        values: of each candidate, in the order of the objectives.
        objectives: by which they are judged.
    """
    costs = [tuple(o.cost(value) for o, value in zip(objectives, each, strict=True)) for each in values]
    ahead, least = set[tuple[float, ...]](), math.inf
    for cost in sorted(set(costs)):  # by the first: what comes later is on the front if it is better in the last
        if cost[-1] < least and (len(cost) == AT_MOST or not ahead):
            ahead.add(cost)
            least = cost[-1]
    return [place for place, cost in enumerate(costs) if cost in ahead]
