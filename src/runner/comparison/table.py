"""Runs side by side: their differing parameters, metrics and speed; as rows, text, CSV and JSON."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from runner.comparison.code import COLUMN as CODE
from runner.comparison.code import code_column
from runner.comparison.runs import ComparedRun
from runner.config.keys import GROUPS, TARGET_GROUPS, flatten
from runner.config.settings import SINGLE, SUPERVISED
from runner.util import metric_names, tables
from runner.util.metric_names import format_metric
from runner.util.tables import align, setting_column, shorten

UNRECORDED = flatten({"task": SUPERVISED}) | flatten({"strategy": SINGLE})
"""The task and the strategy of earlier runs, which recorded none."""

IGNORED = ("resume", "resume_mode", "runner.", "tracking.", "tracking")
"""Keys, and beginnings of keys, that do not change what is computed."""

LABEL_LENGTH = 40
LABEL_COLUMNS = 3
CELL_LENGTH = 28
LISTED = 3
"""How many parameters that do not fit are named."""

VALUE_LENGTH = 16
"""Of a value in a label, which has room for three."""


@dataclass
class Comparison:
    """Runs and the parameters in which they differ.

    Attributes:
        runs: in the given order.
        differing: values by parameter, and of `code`, one per run; "" if a run has no such parameter.
        metrics: the names of all final metrics.
        labels: a short name for each run: its number and its differing values.
        best: the indices of the runs with the best value of each metric, among comparable ones (see `find_best`);
            empty if all are equal.
        log_axes: the parameters that one of their sweeps tags `log`.
    """

    runs: Sequence[ComparedRun]
    differing: dict[str, list[str]]
    metrics: list[str]
    labels: list[str]
    best: dict[str, list[int]]
    log_axes: frozenset[str] = frozenset()

    def speed_up(self, index: int) -> float | None:
        """Return how many times faster an epoch is than the first run's; None without times, or on other data."""
        first, this = self.runs[0], self.runs[index]
        if first.epoch_time is None or not this.epoch_time or differing_data((first, this)):
            return None
        return first.epoch_time / this.epoch_time

    def values(self, metric: str) -> list[float | None]:
        """Return the values of a metric by run."""
        return [run.metrics.get(metric) for run in self.runs]


def compare(runs: Sequence[ComparedRun]) -> Comparison:
    """Find what differs between runs, and the best ones."""
    differing = find_differing(runs)
    order = [f"{part}/{name}" for part in ("val", "test", "train") for name in ("loss", "accuracy")]
    names = dict.fromkeys(name for run in runs for name in run.metrics)
    metrics = [*(name for name in order if name in names), *(name for name in names if name not in order)]
    best = {m: find_best(runs, m) for m in metrics}
    log_axes = frozenset[str]().union(*(run.log_axes for run in runs))
    return Comparison(runs, differing, metrics, make_labels(runs, differing), best, log_axes)


def find_differing(runs: Sequence[ComparedRun]) -> dict[str, list[str]]:
    """Find the parameters that are not the same in all runs, and `code` if that is not.

    A differing choice of a group (`model=cnn` here, `model=mlp` there) stands for the keys that follow from it: those
    that only some of the runs have, unless they also vary within one choice.
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
        follows_choice = len(pairs) == len({choice for choice, _ in pairs})
        is_part = leaf in ("_target_", "name") or any(value is None for _, value in pairs)
        if group in columns and follows_choice and is_part:
            continue
        columns[key] = [value or "" for value in values]
    if names := code_column(runs):
        columns[CODE] = names
    return columns


def _differ(values: Sequence[str | None], runs: Sequence[ComparedRun]) -> bool:
    return len({value for value, run in zip(values, runs, strict=True) if run.config}) > 1


def _choices(config: Mapping[str, str]) -> dict[str, str]:
    """Return a substitute for choices that were not recorded: the names of the classes and functions."""
    named = {group: f"{group}._target_" for group in TARGET_GROUPS}
    named |= {group: f"{group}.name" for group in ("device", "precision", "strategy")}
    return {group: config[key].rpartition(".")[2] for group, key in named.items() if key in config}


def find_best(runs: Sequence[ComparedRun], metric: str) -> list[int]:
    """Find the finished runs with the best value among those of the same data.

    A loss is compared among runs of the same loss function and task. With several data sets there are several, and if
    all values are equal there are none.
    """
    comparable: dict[frozenset[tuple[str, str]], dict[int, float]] = {}
    for index, run in enumerate(runs):
        if run.status == "FINISHED" and math.isfinite(value := run.metrics.get(metric, math.nan)):
            comparable.setdefault(run.data | loss_settings(run, metric), {})[index] = value
    choose = max if higher_is_better(runs, metric) else min
    bests = [(values, choose(values.values())) for values in comparable.values() if len(set(values.values())) > 1]
    return sorted(index for values, best in bests for index, value in values.items() if value == best)


def higher_is_better(runs: Sequence[ComparedRun], metric: str) -> bool:
    """Return whether a higher value of a metric is better, by its name or as the runs' losses say."""
    name = metric.partition("/")[2]
    return metric_names.higher_is_better(metric) or any(name in run.higher_is_better for run in runs)


def loss_settings(run: ComparedRun, metric: str) -> frozenset[tuple[str, str]]:
    """Return the settings that a metric named loss depends on: those of loss and task.

    Label smoothing affects only training.
    """
    part, _, name = metric.partition("/")
    left_out = () if part == "train" else ("loss.label_smoothing",)
    config = UNRECORDED | run.config
    settings = ((k, v) for k, v in config.items() if k.startswith(("loss.", "task.")) and k not in left_out)
    return frozenset(settings if name == "loss" else ())


def differing_data(runs: Sequence[ComparedRun]) -> list[str]:
    """Return what differs in the runs' data: `data`, keys of it, `samples per epoch`; empty if nothing does."""
    known = [run for run in runs if run.config]
    keys = sorted({key for run in known for key, _ in run.data ^ known[0].data})
    if "data._target_" in keys:  # the other keys follow from it
        keys = ["data", *(key for key in keys if key == "data.limit")]
    counts = {run.epoch_samples for run in known} - {None}
    return keys + ["samples per epoch"] * (len(counts) > 1)


def make_labels(runs: Sequence[ComparedRun], differing: Mapping[str, Sequence[str]]) -> list[str]:
    """Return short names for plots: `2: cnn, lr 0.1`; the run's own name if nothing differs."""
    keys = sort_by_distinction([key for key in differing if not follows(key, differing)], differing)
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


def sort_by_distinction(keys: Sequence[str], differing: Mapping[str, Sequence[str]]) -> list[str]:
    """Sort keys so that the first one distinguishes most runs, the first two together most, and so on."""
    chosen: list[str] = []
    left = list(keys)
    while left:
        kinds = {key: set(zip(*(differing[name] for name in (*chosen, key)), strict=True)) for key in left}
        counts = {key: sum(any(values) for values in distinct) for key, distinct in kinds.items()}
        chosen.append(max(counts, key=counts.__getitem__))
        left.remove(chosen[-1])
    return chosen


def follows(key: str, differing: Mapping[str, Sequence[str]]) -> bool:
    """Return whether a key's value follows from the choice of its group, which differs too."""
    choices = differing.get(key.partition(".")[0], ())
    return "." in key and bool(choices) and len(set(zip(choices, differing[key], strict=True))) == len(set(choices))


def rows(comparison: Comparison) -> list[dict[str, Any]]:
    """Return a mapping per run with unrounded figures; None where there is none."""
    return [
        {
            "number": run.number,
            "run": run.name,
            **{key: values[index] for key, values in comparison.differing.items()},
            "status": run.status,
            **{name: run.metrics.get(name) for name in comparison.metrics},
            "epochs": len(run.epoch_seconds.steps) if run.epoch_seconds else None,
            "epoch_seconds": run.epoch_time,
            "samples_per_second": run.samples_per_second,
            "speed_up": comparison.speed_up(index),
            "parameters": run.parameters,
            "run_id": run.run_id,
            "folder": run.folder,
        }
        for index, run in enumerate(comparison.runs)
    ]


def to_csv(comparison: Comparison) -> str:
    """Return the rows as CSV with a header line; a cell without a value is empty."""
    return tables.to_csv(rows(comparison))


def to_json(comparison: Comparison) -> str:
    """Return the rows, the differing parameters, and the best runs of each metric, as JSON."""
    numbers = [run.number for run in comparison.runs]
    content = {
        "differing": list(comparison.differing),
        "metrics": comparison.metrics,
        "best": {metric: [numbers[index] for index in indices] for metric, indices in comparison.best.items()},
        "runs": rows(comparison),
    }
    return json.dumps(_finite(content), indent=2) + "\n"


def _finite(value: Any) -> Any:
    """Replace numbers that are not finite by None: JSON has no NaN."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def to_text(comparison: Comparison, width: int | None = None) -> list[str]:
    """Return the lines of an aligned table; a star marks the best value of each metric.

    Args:
        comparison: of the runs.
        width: of the terminal: parameters that do not fit are left out, and named in a last line.
    """
    keys = list(comparison.differing)
    lines = _table(comparison, keys)
    while width is not None and keys and max(map(len, lines)) > width:
        keys.pop()
        lines = _table(comparison, keys)
    if left_out := list(comparison.differing)[len(keys) :]:
        listed = ", ".join(left_out[:LISTED]) + (f" and {len(left_out) - LISTED} more" * (len(left_out) > LISTED))
        lines.append(f"not shown for the width of the terminal: {listed} (see comparison.csv)")
    return lines


def _table(comparison: Comparison, keys: Sequence[str]) -> list[str]:
    """Return the lines of the table with some of the parameters that differ."""
    runs, indices = comparison.runs, range(len(comparison.runs))
    columns = [
        [">#", *(str(run.number) for run in runs)],
        *(setting_column(key, [shorten(text, CELL_LENGTH) for text in comparison.differing[key]]) for key in keys),
        ["status", *(run.status for run in runs)],
        *(_metric_column(comparison, metric) for metric in comparison.metrics),
        _figures("epoch / s", [run.epoch_time for run in runs], lambda v: f"{v:.3g}" if v < 1000 else f"{v:,.0f}"),
        _figures("samples/s", [run.samples_per_second for run in runs], lambda v: f"{v:,.0f}"),
        _figures("speed-up", [comparison.speed_up(index) for index in indices], format_speed_up),
        _figures("parameters", [run.parameters for run in runs], lambda v: f"{v:,}"),
        ["run", *(run.name for run in runs)],
    ]
    return align(columns)


def format_speed_up(ratio: float) -> str:
    """Format a speed-up: `2.50x`."""
    return f"{ratio:.2f}x" if ratio >= 0.1 else f"{ratio:.2g}x"


def _metric_column(comparison: Comparison, metric: str) -> list[str]:
    best = comparison.best[metric]
    mark = ["*" if index in best else " " if best else "" for index in range(len(comparison.runs))]
    cells = [format_metric(metric, value).strip() if value is not None else "" for value in comparison.values(metric)]
    return [">" + metric + (" " if best else ""), *(cell + sign for cell, sign in zip(cells, mark, strict=True))]


def _figures(name: str, values: Sequence[Any], form: Callable[[Any], str]) -> list[str]:
    return [f">{name}", *("" if value is None else form(value) for value in values)]
