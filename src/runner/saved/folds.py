"""A sweep over folds whose models answer together: `run=<sweep>`."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runner.errors import ConfigError
from runner.rundir import layout
from runner.rundir.folders import parse_path
from runner.rundir.manifest import own_folder
from runner.saved.run import SavedRun, find, get_logged_run, problem_with, store_of
from runner.saved.sweep_folder import is_sweep
from runner.util.files import load_json_or_empty

PARENT_TAG, JOB_TAG = "mlflow.parentRunId", "runner.job"
FOLD = "data.fold"
"""The key that the jobs of such a sweep differ in."""


@dataclass
class SavedFolds:
    """The jobs of the best configuration of a sweep over folds.

    Attributes:
        argument: the option that named the sweep, as typed.
        place: where it is, as text for a message.
        uri: the address of the MLflow store that has it; None if none has.
        members: the jobs, in the order of their numbers.
        points: the fold of each, and its seed as typed; empty if all have the same.
        metrics: what was measured of them together: `out_of_fold` and `test`.
    """

    argument: str
    place: str
    uri: str | None
    members: list[SavedRun]
    points: list[tuple[int, str]]
    metrics: Mapping[str, Mapping[str, float]]


def find_folds(value: str, key: str = "run", uri: str | None = None) -> SavedFolds | None:
    """Find a sweep over folds that are combined, by its folder or its MLflow run id; None if it is something else.

    Args:
        value: as typed.
        key: the option that names it, for errors.
        uri: the MLflow store; None takes that of `store_of` for an id.

    Raises:
        ConfigError: a job of it is gone.
    """
    folder = parse_path(value, key) if value.strip() else None
    if folder is not None and folder.is_dir():
        return _from_folder(folder.resolve(), f"{key}={value}", uri) if is_sweep(folder) else None
    if folder is None or folder.exists() or not re.fullmatch("[0-9a-f]{32}", value):
        return None
    argument, uri = f"{key}={value}", uri or store_of(value)
    tags = get_logged_run(value, argument, uri).data.tags
    if PARENT_TAG in tags or "runner.jobs" not in tags:  # a run, or not one of runner
        return None
    own = own_folder(tags)
    return _from_folder(own, argument, uri) if own is not None and is_sweep(own) else _from_mlflow(value, argument, uri)


def _from_folder(folder: Path, argument: str, uri: str | None) -> SavedFolds | None:
    known = load_json_or_empty(folder / layout.FOLDS)
    if not known:
        return None
    runs = [find(str(folder / str(number)), "run", uri) for number in known["members"]]
    return _with_points(argument, runs[0].place.rpartition("/")[0], runs, known)


def _from_mlflow(run_id: str, argument: str, uri: str) -> SavedFolds | None:
    """Find the jobs in MLflow, as their folders are elsewhere."""
    parent = SavedRun(argument, None, run_id, uri)
    file = parent.file(layout.FOLDS)
    if file is None:
        return None
    known, client = load_json_or_empty(file), parent.client()
    experiment = client.get_run(run_id).info.experiment_id
    jobs = client.search_runs([experiment], f"tags.`{PARENT_TAG}` = '{run_id}'", max_results=50_000)
    ids = {job.data.tags.get(JOB_TAG): job.info.run_id for job in jobs}
    if missing := [number for number in known["members"] if str(number) not in ids]:
        text = f"MLflow does not have job {missing[0]}, whose model is one of its folds"
        raise ConfigError(problem_with(argument, text, topic="store"))
    runs = [find(ids[str(number)], "run", uri) for number in known["members"]]
    return _with_points(argument, parent.place, runs, known)


def _with_points(argument: str, place: str, runs: list[SavedRun], known: Mapping[str, Any]) -> SavedFolds:
    seeds = [str(run.config["seed"]) for run in runs]
    several = len(set(seeds)) > 1
    points = [(int(run.config["data"]["fold"]), seed if several else "") for run, seed in zip(runs, seeds, strict=True)]
    metrics = {part: known.get(part, {}) for part in ("out_of_fold", "test")}
    return SavedFolds(argument, place, runs[0].uri, runs, points, metrics)
