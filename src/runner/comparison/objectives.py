"""The objectives of a sweep: one metric by which its jobs are ranked, or two that are traded off.

Jobs without a loss, such as those of a GAN, are ranked by nothing unless `sweep.metric` says so.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from runner.config.settings import SweepSettings
from runner.errors import ConfigError, Problem, close_match, did_you_mean
from runner.util.metric_names import higher_is_better

MAX_OBJECTIVES = 2

SHOWN = "none"
"""The direction of metrics by which nothing is ranked."""


@dataclass(frozen=True)
class Objective:
    """A metric to optimize.

    Attributes:
        metric: its name.
        direction: `min` or `max`; `none` if it is only shown.
    """

    metric: str
    direction: str

    def cost(self, value: float) -> float:
        """Return the value, or its negative: lower is better. All values of a metric that is only shown are equal."""
        return {"min": value, "max": -value, SHOWN: 0.0}[self.direction]


def direction_of(metric: str, infos: Sequence[Any] = ()) -> str:
    """Return `min` or `max`, by the metric's name or as the jobs' losses say: rates rise, times fall."""
    rises = higher_is_better(metric) or any(metric in info.higher_is_better for info in infos)
    return "max" if rises or metric.startswith("throughput/") else "min"


def objectives_of(settings: SweepSettings, infos: Sequence[Any]) -> list[Objective]:
    """Return the objectives of a sweep.

    Args:
        settings: of the sweep.
        infos: facts about its jobs: `metrics`, `monitor`, `higher_is_better`, `shown` and `unreadable`.

    Returns:
        One or two; or any number with the direction `SHOWN`.

    Raises:
        ConfigError: a metric is not measured by all jobs, the jobs monitor different ones, or there are more than two.
    """
    measured = [name for name in infos[0].metrics if all(name in info.metrics for info in infos)]
    metrics, directions = _as_list(settings.metric), _as_list(settings.direction)
    if not metrics:
        if not any(info.monitor for info in infos):
            shown = [name for name in measured if any(name in info.shown for info in infos)]
            if directions:
                text = f"sweep.direction={_as_typed(directions)}: the task measures no loss, and no metric is chosen"
                suggestion = f"write sweep.metric={(shown or measured)[0]} too"
                raise ConfigError(Problem("sweep.direction", text, suggestion, topic="conflict"))
            return [Objective(name, SHOWN) for name in shown or measured[:1]]
        monitors = sorted({info.monitor or "none" for info in infos})
        if len(monitors) > 1:
            text = f"the jobs monitor different metrics ({', '.join(monitors)})"
            raise ConfigError(Problem("sweep.metric", text, f"write sweep.metric={measured[0]}", topic="conflict"))
        metrics = monitors
    if any(metric.startswith("[") for metric in metrics):
        text = f"sweep.metric='{metrics[0]}' is a text, not a list"
        raise ConfigError(Problem("sweep.metric", text, f"write sweep.metric={metrics[0]}", topic="type"))
    problems = [_not_measured(metric, metrics, measured, infos) for metric in metrics if metric not in measured]
    if len(metrics) > MAX_OBJECTIVES or len(set(metrics)) < len(metrics):
        text, instead = f"sweep.metric=[{','.join(metrics)}] is not one metric, or two different ones", ""
        if different := list(dict.fromkeys(metrics))[:MAX_OBJECTIVES]:
            instead = f"write sweep.metric={_as_typed(different)}"
        problems.append(Problem("sweep.metric", text, instead, topic="range"))
    if directions and len(directions) != len(metrics):
        text = f"sweep.direction={_as_typed(directions)}: {len(metrics)} needed, one for each of {', '.join(metrics)}"
        instead = f"write sweep.direction={_as_typed([direction_of(metric, infos) for metric in metrics])}"
        problems.append(Problem("sweep.direction", text, instead, topic="conflict"))
    if problems:
        raise ConfigError(*problems)
    ways = directions or [direction_of(metric, infos) for metric in metrics]
    return [Objective(metric, way) for metric, way in zip(metrics, ways, strict=True)]


def _not_measured(metric: str, metrics: Sequence[str], measured: Sequence[str], infos: Sequence[Any]) -> Problem:
    if reasons := [info.unreadable[metric] for info in infos if metric in info.unreadable]:
        why, instead = reasons[0]
        others = _as_typed([name for name in metrics if name in measured] or [infos[0].monitor or measured[0]])
        suggestion = f"{instead}; or write sweep.metric={others}" if instead else f"write sweep.metric={others}"
        text = f"sweep.metric={metric} cannot be measured: {why}"
        return Problem("sweep.metric", text, suggestion, topic="unavailable")
    text = f"sweep.metric={metric} is not measured by all jobs"
    close = close_match(metric, measured)
    corrected = [close if name == metric and close else name for name in metrics]
    suggestion = f"did you mean sweep.metric={_as_typed(corrected)}?" if close else did_you_mean(metric, measured)
    return Problem("sweep.metric", text, suggestion, topic="unknown")


def _as_typed(values: Sequence[str]) -> str:
    return values[0] if len(values) == 1 else f"[{','.join(values)}]"


def _as_list(value: Any) -> list[str]:
    if value is None:
        return []
    return [str(item) for item in value] if isinstance(value, list | tuple) else [str(value)]


def pareto_front(values: Sequence[Sequence[float]], objectives: Sequence[Objective]) -> list[int]:
    """Return the places of the candidates that no other dominates: is as good in all objectives, and better in one.

    Args:
        values: of each candidate, in the order of the objectives.
        objectives: of the sweep.
    """
    costs = [tuple(o.cost(value) for o, value in zip(objectives, each, strict=True)) for each in values]
    ahead, least = set[tuple[float, ...]](), math.inf
    for cost in sorted(set(costs)):  # by the first objective: a later one is on the front if it is better in the last
        if cost[-1] < least and (len(cost) == MAX_OBJECTIVES or not ahead):
            ahead.add(cost)
            least = cost[-1]
    return [place for place, cost in enumerate(costs) if cost in ahead]
