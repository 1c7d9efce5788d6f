"""The results of a sweep for its plots: the varied parameters, and a metric by configuration."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import mean

import numpy as np
from numpy.typing import NDArray

from runner.comparison.code import COLUMN as CODE
from runner.comparison.runs import ComparedRun
from runner.comparison.table import Comparison, follows, higher_is_better, loss_settings
from runner.config.keys import PRESETS
from runner.util.tables import shorten

Value = float | str
"""A parameter's value: a number, or a text as typed; "" if a configuration has no such parameter."""

Floats = NDArray[np.float64]


@dataclass
class Parameter:
    """A varied parameter.

    Attributes:
        key: its name.
        values: by configuration.
        log: whether the sweep tags it `log`.
    """

    key: str
    values: list[Value]
    log: bool = False

    @property
    def categories(self) -> list[str]:
        """Its values that are not numbers, in order of appearance."""
        return list(dict.fromkeys(value for value in self.values if isinstance(value, str)))

    @property
    def numbers(self) -> list[float]:
        """Its numeric values, ascending."""
        return sorted({value for value in self.values if isinstance(value, float)})


@dataclass
class SweepResults:
    """A metric by configuration.

    Attributes:
        parameters: that differ between the configurations.
        values: of the metric, accuracies in per cent; a configuration has one value per seed.
        metric: its name.
        maximized: whether higher is better.
        comparable: whether the values can be ranked.
        notes: remarks that a plot does not show.
    """

    parameters: list[Parameter]
    values: list[list[float]]
    metric: str
    maximized: bool
    comparable: bool
    notes: list[str]

    @cached_property
    def means(self) -> Floats:
        """Means over the seeds, (configurations,)."""
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
        """The configuration with the best mean; None if all are equal, or cannot be ranked."""
        return self.order[0] if self.comparable and np.ptp(self.means) > 0 else None

    @cached_property
    def log_scale(self) -> bool:
        """Whether the metric has a logarithmic axis."""
        return spans_powers([value for values in self.values for value in values], self.maximized)


def spans_powers(values: Sequence[float], maximized: bool) -> bool:
    """Return whether these are losses over more than two powers of ten."""
    return not maximized and min(values) > 0 and max(values) / min(values) > 100


def gather(comparison: Comparison, metric: str | None = None) -> SweepResults | None:
    """Group the finished runs by configuration.

    Args:
        comparison: the runs.
        metric: by default the one that they monitor.

    Returns:
        None if fewer than two configurations have a value.
    """
    metric = metric or find_monitored(comparison)
    if metric is None:
        return None
    runs, differing = comparison.runs, comparison.differing
    reasons = [_why_excluded(run, metric) for run in runs]
    included = [index for index, reason in enumerate(reasons) if not reason]
    keys, notes = find_independent(differing)
    if excluded := Counter(filter(None, reasons)):
        counts = ", ".join(f"{count} {reason}" for reason, count in excluded.most_common())
        notes.append(f"left out of {len(runs)} runs: {counts}")
    configurations: dict[tuple[Value, ...], list[float]] = {}
    for index in included:
        place = tuple(_value(differing[key][index]) for key in keys)
        value = runs[index].metrics[metric]
        configurations.setdefault(place, []).append(100 * value if metric.endswith("accuracy") else value)
    if len(configurations) < 2:
        return None
    columns = zip(*configurations, strict=True)
    log_axes = comparison.log_axes
    parameters = [Parameter(key, list(column), key in log_axes) for key, column in zip(keys, columns, strict=True)]
    varied = [parameter for parameter in parameters if len(set(parameter.values)) > 1]
    if same := [key for key in keys if key not in {parameter.key for parameter in varied}]:
        notes.append("all with " + ", ".join(f"{key}={shorten(differing[key][included[0]], 20)}" for key in same))
    comparable = are_comparable([runs[index] for index in included], metric)
    maximized = higher_is_better(runs, metric)
    return SweepResults(varied, list(configurations.values()), metric, maximized, comparable, notes)


def are_comparable(runs: Sequence[ComparedRun], metric: str) -> bool:
    """Return whether runs have the same data and, for a metric named loss, the same loss."""
    return len({run.data | loss_settings(run, metric) for run in runs}) == 1


def find_monitored(comparison: Comparison) -> str | None:
    """Return the validation metric that the runs monitor."""
    monitors = {run.config.get("trainer.monitor") for run in comparison.runs if run.config}
    common = monitors if len(monitors) == 1 else set()
    return next((name for name in (*common, "val/loss", "test/loss", "train/loss") if name in comparison.metrics), None)


def _why_excluded(run: ComparedRun, metric: str) -> str:
    """Return why a run is left out; "" if it is not."""
    if run.status != "FINISHED":
        return run.status.lower()
    if not run.config:
        return "without a config"
    return "" if math.isfinite(run.metrics.get(metric, math.nan)) else "without a finite value"


def find_independent(differing: Mapping[str, Sequence[str]]) -> tuple[list[str], list[str]]:
    """Find the parameters that do not follow from others.

    In a random search, where each number occurs once, any parameter would determine all others. So only these count:
    a group's choice determines its own keys, a preset all keys, and a parameter another one that changes exactly when
    it does, repeatedly. The code counts if runs of the same parameters and seed were made by different code; otherwise
    it was edited while the seeds of a configuration ran.

    Returns:
        Their keys, and remarks on parameters that change together.
    """
    columns = {key: values for key, values in differing.items() if key != "seed"}
    notes = []
    if _was_edited_meanwhile(differing):
        del columns[CODE]
        notes.append("the code differs between runs")
    presets = [key for key in PRESETS if key in columns]

    def kinds(*keys: str) -> int:
        return len(set(zip(*(columns[key] for key in keys), strict=True)))

    independent: list[str] = []
    for key in columns:
        from_preset = key not in presets and any(kinds(preset, key) == kinds(preset) for preset in presets)
        if from_preset or follows(key, columns):
            continue
        twins = [other for other in independent if kinds(key, other) == kinds(key) == kinds(other)]
        if twins and (kinds(key) < kinds(*columns) or columns[key] == columns[twins[0]]):
            notes.append(f"{key} changes with {twins[0]}")
        else:
            independent.append(key)
    return independent, notes


def _was_edited_meanwhile(differing: Mapping[str, Sequence[str]]) -> bool:
    """Return whether code differs, but not between runs of the same parameters and seed."""
    if not {CODE, "seed"} <= differing.keys():
        return False
    known = [place for place, code in enumerate(differing[CODE]) if code]
    others = [values for key, values in differing.items() if key != CODE]
    return len({tuple(values[place] for values in others) for place in known}) == len(known)


def _value(text: str) -> Value:
    try:
        number = float(text)
    except ValueError:
        return text
    return number if math.isfinite(number) else text
