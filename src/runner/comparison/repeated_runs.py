"""Compared runs as repetitions of configurations."""

from pathlib import Path
from typing import Any

from runner.comparison.objectives import SHOWN, Objective
from runner.comparison.repetitions import Repetition, are_repeated
from runner.comparison.results import find_independent, find_monitored
from runner.comparison.table import Comparison, higher_is_better
from runner.rundir import layout
from runner.rundir.manifest import PAUSE
from runner.util.files import load_json_or_empty


def find_repetitions(comparison: Comparison, metric: str) -> list[Repetition]:
    """Return the runs as repetitions; empty if no configuration has several seeds, or if they are folds.

    Folds share training samples, and none is better than another. The value of a run that has not finished is None.
    Runs without a config belong to no configuration.
    """
    keys, _ = find_independent(comparison.differing)
    if "data.fold" in keys:
        return []
    repetitions = [
        Repetition(
            {key: comparison.differing[key][place] for key in keys},
            run.config.get("seed", ""),
            run.metrics.get(metric) if run.status == "FINISHED" else None,
            run.status == PAUSE,
        )
        for place, run in enumerate(comparison.runs)
        if run.config
    ]
    return repetitions if are_repeated(repetitions) else []


def find_settings(sweep: Path | None) -> dict[str, Any]:
    """Return the settings by which the end of a sweep has judged its jobs; empty without a verdict.

    Returns:
        `smallest_difference` and `max_seeds` of `verdict.judge`.
    """
    recorded = load_json_or_empty(sweep / layout.VERDICT) if sweep is not None else {}
    return {name: recorded[name] for name in ("smallest_difference", "max_seeds") if name in recorded}


def find_objective(comparison: Comparison, sweep: Path | None) -> Objective | None:
    """Return the objective to judge by: that of the sweep, else the metric that the runs monitor.

    Args:
        comparison: the runs.
        sweep: the folder that they are the jobs of, if they are those of one.

    Returns:
        None if there is none, or the sweep has two.
    """
    recorded = load_json_or_empty(sweep / layout.JOBS) if sweep is not None else {}
    if {"metric", "direction"} <= recorded.keys():
        several = "objectives" in recorded or recorded["direction"] == SHOWN
        return None if several else Objective(recorded["metric"], recorded["direction"])
    metric = find_monitored(comparison)
    if metric is None:
        return None
    return Objective(metric, "max" if higher_is_better(comparison.runs, metric) else "min")
