"""The results of a sweep, to be drawn: what was varied, and how good each configuration is."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import mean

import numpy as np
from numpy.typing import NDArray

from runner.comparison.runs import ComparedRun
from runner.comparison.table import Comparison, follows, higher_is_better, loss_settings
from runner.config.keys import PRESETS
from runner.util.tables import shorten

Value = float | str
"""Of a parameter: a number, or what else one would type; "" where a configuration has no such parameter."""

Floats = NDArray[np.float64]


@dataclass
class Parameter:
    """What was varied.

    Attributes:
        key: its name.
        values: by configuration.
        log: whether the sweep has tagged it `log`.
    """

    key: str
    values: list[Value]
    log: bool = False

    @property
    def words(self) -> list[str]:
        """Its values that are no numbers, in the order they came."""
        return list(dict.fromkeys(value for value in self.values if isinstance(value, str)))

    @property
    def numbers(self) -> list[float]:
        """Its values that are numbers, ascending."""
        return sorted({value for value in self.values if isinstance(value, float)})


@dataclass
class SweepResults:
    """A metric by configuration.

    Attributes:
        parameters: that differ among the configurations.
        values: of the metric, accuracies in per cent; those of one configuration differ in their seeds alone.
        metric: its name.
        maximized: whether higher is better.
        comparable: whether one of them can be called the best.
        notes: what cannot be seen in a picture of them.
    """

    parameters: list[Parameter]
    values: list[list[float]]
    metric: str
    maximized: bool
    comparable: bool
    notes: list[str]

    @cached_property
    def means(self) -> Floats:
        """Over the seeds, (configurations,)."""
        return np.array([mean(values) for values in self.values])

    @property
    def repeated(self) -> bool:
        """Whether any configuration was run with several seeds."""
        return any(len(values) > 1 for values in self.values)

    @property
    def order(self) -> list[int]:
        """The configurations, the best first."""
        return np.argsort(-self.means if self.maximized else self.means, kind="stable").tolist()

    @property
    def best(self) -> int | None:
        """The configuration with the best mean; None where all are the same, or cannot be compared."""
        return self.order[0] if self.comparable and np.ptp(self.means) > 0 else None

    @cached_property
    def log_scale(self) -> bool:
        """Whether the metric is drawn on a logarithmic axis."""
        return spans_powers([value for values in self.values for value in values], self.maximized)


def spans_powers(values: Sequence[float], maximized: bool) -> bool:
    """Whether these are losses over more than two powers of ten."""
    return not maximized and min(values) > 0 and max(values) / min(values) > 100


def gather(c: Comparison, metric: str | None = None) -> SweepResults | None:
    """Find the finished runs by configuration.

    Args:
        c: the runs.
        metric: by default the one they were judged by.

    Returns:
        None if there are fewer than two configurations with a value.
    """
    metric = metric or _monitored(c)
    if metric is None:
        return None
    reasons = [_why_not(run, metric) for run in c.runs]
    kept = [index for index, reason in enumerate(reasons) if not reason]
    keys, notes = _independent(c.differing)
    if left_out := Counter(filter(None, reasons)):
        counts = ", ".join(f"{count} {reason}" for reason, count in left_out.most_common())
        notes.append(f"left out of {len(c.runs)} runs: {counts}")
    configurations: dict[tuple[Value, ...], list[float]] = {}
    for index in kept:
        place = tuple(_value(c.differing[key][index]) for key in keys)
        value = c.runs[index].metrics[metric]
        configurations.setdefault(place, []).append(100 * value if metric.endswith("accuracy") else value)
    if len(configurations) < 2:
        return None
    columns = zip(*configurations, strict=True)
    parameters = [Parameter(key, list(column), key in c.log_axes) for key, column in zip(keys, columns, strict=True)]
    varied = [p for p in parameters if len(set(p.values)) > 1]
    if same := [key for key in keys if key not in {p.key for p in varied}]:
        notes.append("all with " + ", ".join(f"{key}={shorten(c.differing[key][kept[0]], 20)}" for key in same))
    comparable = len({c.runs[index].data | loss_settings(c.runs[index], metric) for index in kept}) == 1
    maximized = higher_is_better(c.runs, metric)
    return SweepResults(varied, list(configurations.values()), metric, maximized, comparable, notes)


def _monitored(c: Comparison) -> str | None:
    """The validation metric by which the runs were judged."""
    monitors = {run.config.get("trainer.monitor") for run in c.runs if run.config}
    wanted = monitors if len(monitors) == 1 else set()
    return next((name for name in (*wanted, "val/loss", "test/loss", "train/loss") if name in c.metrics), None)


def _why_not(run: ComparedRun, metric: str) -> str:
    """Why a run is left out; "" if it is not."""
    if run.status != "FINISHED":
        return run.status.lower()
    if not run.config:
        return "without a config"
    return "" if math.isfinite(run.metrics.get(metric, math.nan)) else "without a finite value"


def _independent(differing: Mapping[str, Sequence[str]]) -> tuple[list[str], list[str]]:
    """The parameters that do not follow from others.

    In a random search, which has each number once, any of them would tell all others. So only these are taken to
    tell: a group's choice its own keys, a preset all keys, and a parameter another one that changes just when it
    does, time and again.

    Returns:
        Their keys, and notes of parameters that go together.
    """
    columns = {key: values for key, values in differing.items() if key != "seed"}
    presets = [key for key in PRESETS if key in columns]

    def kinds(*keys: str) -> int:
        return len(set(zip(*(columns[key] for key in keys), strict=True)))

    kept: list[str] = []
    notes = []
    for key in columns:
        from_preset = key not in presets and any(kinds(preset, key) == kinds(preset) for preset in presets)
        if from_preset or follows(key, columns):
            continue
        twins = [other for other in kept if kinds(key, other) == kinds(key) == kinds(other)]
        if twins and (kinds(key) < kinds(*columns) or columns[key] == columns[twins[0]]):
            notes.append(f"{key} changes with {twins[0]}")
        else:
            kept.append(key)
    return kept, notes


def _value(text: str) -> Value:
    try:
        number = float(text)
    except ValueError:
        return text
    return number if math.isfinite(number) else text
