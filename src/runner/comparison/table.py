"""Runs side by side: what tells them apart, how good they are, how fast; as rows, text, CSV and JSON."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from runner.comparison.runs import ComparedRun
from runner.config.keys import GROUPS, TARGET_GROUPS
from runner.util import metric_names, tables
from runner.util.metric_names import format_metric
from runner.util.tables import align, shorten

IGNORED = ("resume", "resume_mode", "runner.", "tracking.", "tracking")
"""Keys, and beginnings of keys, that say nothing about what was computed."""

LABEL_LENGTH = 40
LABEL_COLUMNS = 3
CELL_LENGTH = 28
VALUE_LENGTH = 16
"""Of a value in a label, which two others are to stand beside."""


@dataclass
class Comparison:
    """Runs and the parameters in which they differ.

    Attributes:
        runs: in the order they were given.
        differing: values by parameter, one a run; "" where a run has no such parameter.
        metrics: the names of all final metrics.
        labels: a short name for each run: its number and what differs.
        best: the indices of the runs with the best value of each metric, among those that can be compared (see
            `find_best`); none where nothing is to be chosen.
        log_axes: the parameters that a sweep of theirs has tagged `log`.
    """

    runs: Sequence[ComparedRun]
    differing: dict[str, list[str]]
    metrics: list[str]
    labels: list[str]
    best: dict[str, list[int]]
    log_axes: frozenset[str] = frozenset()

    def speed_up(self, index: int) -> float | None:
        """How many times faster an epoch is than the first run's; None if either has no time, or other data."""
        first, this = self.runs[0], self.runs[index]
        if first.epoch_time is None or not this.epoch_time or differing_data((first, this)):
            return None
        return first.epoch_time / this.epoch_time

    def values(self, metric: str) -> list[float | None]:
        """A metric by run."""
        return [run.metrics.get(metric) for run in self.runs]


def compare(runs: Sequence[ComparedRun]) -> Comparison:
    """Find what differs and who is best."""
    differing = find_differing(runs)
    order = [f"{part}/{name}" for part in ("val", "test", "train") for name in ("loss", "accuracy")]
    names = dict.fromkeys(name for run in runs for name in run.metrics)
    metrics = [*(name for name in order if name in names), *(name for name in names if name not in order)]
    best = {m: find_best(runs, m) for m in metrics}
    log_axes = frozenset[str]().union(*(run.log_axes for run in runs))
    return Comparison(runs, differing, metrics, make_labels(runs, differing), best, log_axes)


def find_differing(runs: Sequence[ComparedRun]) -> dict[str, list[str]]:
    """The parameters that are not the same in all runs.

    Where a group's choice differs (`model=cnn` here, `model=mlp` there), it stands for the keys that follow
    from it: those that only some of the runs have, unless they were varied within one choice too.
    """
    known = [run for run in runs if run.config]
    recorded = all(run.choices for run in known)
    choices = [(run.choices if recorded else _choices(run.config)) if run.config else {} for run in runs]
    columns: dict[str, list[str]] = {}
    for group in GROUPS:
        if not group.startswith(IGNORED) and _differ([c.get(group) for c in choices], runs):
            columns[group] = [c.get(group, "") for c in choices]
    for key in dict.fromkeys(key for run in known for key in run.config):
        values = [run.config.get(key) for run in runs]
        if key.startswith(IGNORED) or not _differ(values, runs):
            continue
        group, _, leaf = key.partition(".")
        pairs = {(c.get(group), v) for c, v, run in zip(choices, values, runs, strict=True) if run.config}
        told = len(pairs) == len({choice for choice, _ in pairs})
        if group in columns and told and (leaf in ("_target_", "name") or any(value is None for _, value in pairs)):
            continue
        columns[key] = [value or "" for value in values]
    return columns


def _differ(values: Sequence[str | None], runs: Sequence[ComparedRun]) -> bool:
    return len({value for value, run in zip(values, runs, strict=True) if run.config}) > 1


def _choices(config: Mapping[str, str]) -> dict[str, str]:
    """What stands for the choices of a run that told MLflow nothing: the names of its classes and functions."""
    named = {group: f"{group}._target_" for group in TARGET_GROUPS} | {g: f"{g}.name" for g in ("device", "precision")}
    return {group: config[key].rpartition(".")[2] for group, key in named.items() if key in config}


def find_best(runs: Sequence[ComparedRun], metric: str) -> list[int]:
    """The finished runs with the best value among those of the same data, and for a loss the same loss function.

    There are several where several data sets are compared, and none where all values are the same.
    """
    comparable: dict[frozenset[tuple[str, str]], dict[int, float]] = {}
    for index, run in enumerate(runs):
        if run.status == "FINISHED" and math.isfinite(value := run.metrics.get(metric, math.nan)):
            comparable.setdefault(run.data | loss_settings(run, metric), {})[index] = value
    choose = max if higher_is_better(runs, metric) else min
    bests = [(values, choose(values.values())) for values in comparable.values() if len(set(values.values())) > 1]
    return sorted(index for values, best in bests for index, value in values.items() if value == best)


def higher_is_better(runs: Sequence[ComparedRun], metric: str) -> bool:
    """Which way a metric of these runs is better: by its name, or as their losses said."""
    name = metric.partition("/")[2]
    return metric_names.higher_is_better(metric) or any(name in run.higher_is_better for run in runs)


def loss_settings(run: ComparedRun, metric: str) -> frozenset[tuple[str, str]]:
    """The settings that a metric named loss depends on; label smoothing is for training only."""
    part, _, name = metric.partition("/")
    left_out = () if part == "train" else ("loss.label_smoothing",)
    settings = ((k, v) for k, v in run.config.items() if k.startswith("loss.") and k not in left_out)
    return frozenset(settings if name == "loss" else ())


def differing_data(runs: Sequence[ComparedRun]) -> list[str]:
    """In what the data differ that runs were trained on: `data`, keys of it, `samples an epoch`; [] if in nothing."""
    known = [run for run in runs if run.config]
    found = sorted({key for run in known for key, _ in run.data ^ known[0].data})
    if "data._target_" in found:  # which the other keys follow from
        found = ["data", *(key for key in found if key == "data.limit")]
    counts = {run.epoch_samples for run in known} - {None}
    return found + ["samples an epoch"] * (len(counts) > 1)


def make_labels(runs: Sequence[ComparedRun], differing: Mapping[str, Sequence[str]]) -> list[str]:
    """Short names for plots: `2: cnn, lr 0.1`; the run's own name where nothing differs."""
    keys = by_distinction([key for key in differing if not follows(key, differing)], differing)
    leaves = [key.rpartition(".")[2] for key in keys]
    labels = []
    for index, run in enumerate(runs):
        parts = []
        for key, leaf in zip(keys, leaves, strict=True):
            if value := differing[key][index]:
                name = leaf if leaves.count(leaf) == 1 else key
                value = shorten(value, VALUE_LENGTH)
                parts.append(value if key in GROUPS else f"{name} {value}")
        text = ", ".join(parts[:LABEL_COLUMNS] + ["..."] * (len(parts) > LABEL_COLUMNS)) or run.name
        labels.append(f"{run.number}: {shorten(text, LABEL_LENGTH)}")
    return labels


def by_distinction(keys: Sequence[str], differing: Mapping[str, Sequence[str]]) -> list[str]:
    """The keys, that first which tells most runs apart, then that which with it tells most; else as they were."""
    chosen: list[str] = []
    left = list(keys)
    while left:
        kinds = {key: set(zip(*(differing[name] for name in (*chosen, key)), strict=True)) for key in left}
        told = {key: sum(any(values) for values in found) for key, found in kinds.items()}
        chosen.append(max(told, key=told.__getitem__))
        left.remove(chosen[-1])
    return chosen


def follows(key: str, differing: Mapping[str, Sequence[str]]) -> bool:
    """Whether a key's value is told by the choice of its group, which differs too."""
    choices = differing.get(key.partition(".")[0], ())
    return "." in key and bool(choices) and len(set(zip(choices, differing[key], strict=True))) == len(set(choices))


def rows(c: Comparison) -> list[dict[str, Any]]:
    """A mapping a run, with every figure as it is; None where there is none."""
    return [
        {
            "number": run.number,
            "run": run.name,
            **{key: values[index] for key, values in c.differing.items()},
            "status": run.status,
            **{name: run.metrics.get(name) for name in c.metrics},
            "epochs": len(run.epoch_seconds) or None,
            "epoch_seconds": run.epoch_time,
            "samples_per_second": run.samples_per_second,
            "speed_up": c.speed_up(index),
            "parameters": run.parameters,
            "run_id": run.run_id,
            "folder": run.folder,
        }
        for index, run in enumerate(c.runs)
    ]


def to_csv(c: Comparison) -> str:
    """The rows as CSV with a header line; an empty cell where there is no value."""
    return tables.to_csv(rows(c))


def to_json(c: Comparison) -> str:
    """The rows, what differs, and the numbers of the runs that are best in each metric."""
    best = {metric: [c.runs[index].number for index in found] for metric, found in c.best.items()}
    content = {"differing": list(c.differing), "metrics": c.metrics, "best": best, "runs": rows(c)}
    return json.dumps(_finite(content), indent=2) + "\n"


def _finite(value: Any) -> Any:
    """JSON has no NaN."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def to_text(c: Comparison) -> list[str]:
    """The lines of an aligned table; the best value of each metric is marked by a star."""
    columns = [
        [">#", *(str(run.number) for run in c.runs)],
        *([key, *(shorten(value, CELL_LENGTH) for value in values)] for key, values in c.differing.items()),
        ["status", *(run.status for run in c.runs)],
        *(_metric_column(c, metric) for metric in c.metrics),
        _figures("epoch / s", [run.epoch_time for run in c.runs], lambda v: f"{v:.3g}" if v < 1000 else f"{v:,.0f}"),
        _figures("samples/s", [run.samples_per_second for run in c.runs], lambda v: f"{v:,.0f}"),
        _figures("speed-up", [c.speed_up(index) for index in range(len(c.runs))], times_faster),
        _figures("parameters", [run.parameters for run in c.runs], lambda v: f"{v:,}"),
        ["run", *(run.name for run in c.runs)],
    ]
    return align(columns)


def times_faster(ratio: float) -> str:
    """A speed-up for people: `2.50x`."""
    return f"{ratio:.2f}x" if ratio >= 0.1 else f"{ratio:.2g}x"


def _metric_column(c: Comparison, metric: str) -> list[str]:
    best = c.best[metric]
    mark = ["*" if index in best else " " if best else "" for index in range(len(c.runs))]
    cells = [format_metric(metric, value).strip() if value is not None else "" for value in c.values(metric)]
    return [">" + metric + (" " if best else ""), *(cell + sign for cell, sign in zip(cells, mark, strict=True))]


def _figures(name: str, values: Sequence[Any], form: Callable[[Any], str]) -> list[str]:
    return [f">{name}", *("" if value is None else form(value) for value in values)]
