"""The data of a run that a comparison uses, read from its folder or, if that is not here, from MLflow."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from runner.comparison import log_axes
from runner.config import nesting
from runner.config.keys import GROUPS, flatten
from runner.errors import ConfigError, to_one_line
from runner.rundir import energy, journal, layout
from runner.rundir.code import Code, read_in
from runner.rundir.lock import is_locked
from runner.rundir.looks import Look
from runner.rundir.manifest import PAUSE, manifest_of
from runner.rundir.points import Curve
from runner.saved.code import StoredCode
from runner.saved.run import SavedRun, choices_of, read_result
from runner.tracking.store import connect
from runner.util.tags import CODE_TAG, FOLDER_TAG, PAUSED, PRUNED, SUCCESSOR_PARAM

if TYPE_CHECKING:
    from mlflow.entities import Run
    from numpy.typing import ArrayLike

CURVES = ("val/loss", "train/loss", "time/epoch_seconds", "throughput/samples_per_second")
"""Metrics that are needed for each epoch."""

SAME_DATA = (
    "batch_size", "val_fraction", "scale", "in_memory", "num_workers", "augment", "root", "mean", "std", "size",
    "channels", "split", "split_by", "sampler", "sample_weight",
)  # fmt: skip
"""Keys of the data that do not change the data set: how it is split, stored, scaled, augmented."""

MAX_JOBS = 10_000
"""Of a sweep."""


@dataclass
class ComparedRun:
    """One run, finished or not.

    Attributes:
        number: in the table and the plots: a sweep's job number, or its place from 1.
        name: of its folder, or in MLflow.
        status: FINISHED, PRUNED, PAUSED, FAILED, KILLED, RUNNING, or NOT STARTED for a job without a config.
        folder: its path; None if it is not on this machine.
        run_id: in MLflow; None if it was never tracked.
        config: resolved, flattened to dotted keys, values as typed.
        choices: the chosen member of each group; empty if that was not recorded.
        metrics: `val/...` and `test/...` of the best epoch; `train/...` of it if the run has neither; its energy.
        epoch_seconds: by epoch, counted from 1 and ascending, as all curves here; None if none is known.
        rates: samples per second by logged epoch; None if none was logged.
        curves: those of `CURVES` that were logged.
        parameters: of the model.
        higher_is_better: the metrics that rise as a model improves, without their part (`f1`), if that was recorded.
        log_axes: the keys that its sweep tags `log`.
        code: the record of its code; None if it has none.
        look: that its model has had at the test part for a registered model; None without one.
    """

    number: int
    name: str
    status: str
    folder: str | None = None
    run_id: str | None = None
    config: dict[str, str] = field(default_factory=dict)
    choices: dict[str, str] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    epoch_seconds: Curve | None = None
    rates: Curve | None = None
    curves: dict[str, Curve] = field(default_factory=dict)
    parameters: int | None = None
    higher_is_better: frozenset[str] = frozenset()
    log_axes: frozenset[str] = frozenset()
    code: Code | None = None
    look: Look | None = None

    @cached_property
    def epoch_samples(self) -> int | None:
        """Training samples of an epoch; the maximum, as `trainer.max_steps` may shorten the last. None if unknown."""
        import numpy as np

        if self.rates is None or self.epoch_seconds is None:
            return None
        both = np.intersect1d(self.rates.steps, self.epoch_seconds.steps, assume_unique=True, return_indices=True)
        counts = self.rates.values[both[1]] * self.epoch_seconds.values[both[2]]
        return round(float(counts.max())) if counts.size else None

    @cached_property
    def data(self) -> frozenset[tuple[str, str]]:
        """The settings that identify the data set, without those of its presentation."""
        return frozenset(
            (key, value)
            for key, value in self.config.items()
            if key.startswith("data.") and key.split(".")[1] not in SAME_DATA
        )

    @cached_property
    def warm_up_only(self) -> bool:
        """Whether only its first epoch was timed."""
        return self.epoch_seconds is not None and self.epoch_seconds.steps.tolist() == [1]

    @cached_property
    def epoch_time(self) -> float | None:
        """Seconds per epoch: the median without the first epoch, which warms up, if there are others."""
        return typical(self.epoch_seconds)

    @cached_property
    def samples_per_second(self) -> float | None:
        """Training samples per second, likewise."""
        return typical(self.rates)


def typical(curve: Curve | None) -> float | None:
    """Return the median over epochs without the first; of the first if it is the only one; None if there are none."""
    import numpy as np

    if curve is None:
        return None
    warm = curve.values[curve.steps > 1]
    return float(np.median(warm if warm.size else curve.values))


def from_folder(folder: Path, number: int) -> ComparedRun:
    """Read a run's folder; fields that a killed or failed run has not written stay empty."""
    result = read_result(folder)
    read = journal.read_curves(folder / layout.JOURNAL, CURVES)
    curves = {name: _ascending(*curve) for name, curve in read.items()}
    config = _config(folder / layout.CONFIG)
    manifest = manifest_of(folder)
    status = result.get("status") or ("RUNNING" if is_locked(folder) else "KILLED" if config else "NOT STARTED")
    if manifest is not None and PRUNED in manifest.tags:
        status = "PRUNED"
    return ComparedRun(
        number,
        to_one_line(folder.name),
        status,
        folder=str(folder),
        run_id=result.get("run_id"),
        config=flatten(config) if config else {},
        choices=choices_of(manifest.params) if manifest else {},
        metrics=_final(result),
        epoch_seconds=_seconds(result) or curves.get("time/epoch_seconds"),
        rates=curves.get("throughput/samples_per_second"),
        curves=curves,
        parameters=result.get("parameters"),
        higher_is_better=frozenset(result.get("higher_is_better", ())),
        log_axes=_log_axes(folder),
        code=read_in(folder),
        look=Look.read(manifest.tags) if manifest is not None else None,
    )


def from_mlflow(run: "Run", uri: str, number: int) -> ComparedRun:
    """Read a run from MLflow: parameters, histories and, if it has ended, its `result.json`.

    Args:
        run: the store's record of it.
        uri: of the store.
        number: see `ComparedRun`.

    Raises:
        MlflowException: the store cannot be reached.
    """
    run_id, client = run.info.run_id, connect(uri)
    tags = run.data.tags
    # Parameters are immutable in MLflow: changes by a resume are tags.
    changed = {key.removeprefix("resumed."): value for key, value in tags.items() if key.startswith("resumed.")}
    params = {key: value for key, value in run.data.params.items() if not key.startswith(SUCCESSOR_PARAM)} | changed
    histories = {name: client.get_metric_history(run_id, name) for name in CURVES if name in run.data.metrics}
    curves = {
        name: _ascending([float(point.step) for point in found], [point.value for point in found])
        for name, found in histories.items()
        if found
    }
    result = _result(run_id, uri)
    parameters = tags.get("runner.parameters", "")
    return ComparedRun(
        number,
        to_one_line(run.info.run_name or run_id),
        "PRUNED" if PRUNED in tags else PAUSE if PAUSED in tags else run.info.status,
        run_id=run_id,
        config={key: value for key, value in params.items() if key not in GROUPS},
        choices=choices_of(params),
        metrics=_final(result or _best(run.data.metrics)),
        epoch_seconds=_seconds(result) or curves.get("time/epoch_seconds"),
        rates=curves.get("throughput/samples_per_second"),
        curves=curves,
        parameters=int(parameters) if parameters.isdecimal() else None,
        higher_is_better=frozenset(result.get("higher_is_better", ())),
        log_axes=frozenset(tags.get(log_axes.TAG, "").split()),
        code=_code(run_id, uri, tags.get(CODE_TAG)),
        look=Look.read(tags),
    )


def children(parent: "Run", uri: str) -> "list[Run]":
    """Return the runs of a sweep in MLflow, in the order of their jobs.

    Raises:
        MlflowException: the store cannot be reached.
    """
    query = f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'"
    runs = connect(uri).search_runs([parent.info.experiment_id], query, max_results=MAX_JOBS)
    return sorted(runs, key=lambda run: (_job_number(run), run.info.start_time))


def _job_number(run: "Run") -> int:
    last = Path(run.data.tags.get(FOLDER_TAG, "")).name
    return int(last) if re.fullmatch("[0-9]{1,9}", last) else 0  # a tag may hold anything


def _log_axes(folder: Path) -> frozenset[str]:
    """Return the keys that the sweep of a job's folder tags `log`."""
    try:
        return _log_axes_of(folder.absolute().parent, (folder.absolute().parent / layout.SWEEP_PLAN).stat().st_mtime_ns)
    except OSError:
        return frozenset()


@lru_cache(maxsize=1)  # the jobs of a sweep are read one after the other
def _log_axes_of(sweep: Path, _changed: int) -> frozenset[str]:
    return frozenset(log_axes.read_log_axes(sweep))


def _ascending(steps: "ArrayLike", values: "ArrayLike") -> Curve:
    """Return a curve in the order of its steps; of several values of a step the last one counts."""
    import numpy as np

    steps, values = np.asarray(steps, dtype=np.float64), np.asarray(values, dtype=np.float64)
    if bool((steps[1:] > steps[:-1]).all()):
        return Curve(steps, values)
    ascending, last = np.unique(steps[::-1], return_index=True)
    return Curve(ascending, values[::-1][last])


def _best(metrics: Mapping[str, float]) -> dict[str, float]:
    """Return the last value of each metric, or that of the best epoch if it was logged (`best/<name>`)."""
    return {**metrics, **{name.removeprefix("best/"): metrics[name] for name in metrics if name.startswith("best/")}}


def _seconds(result: Mapping[str, Any]) -> Curve | None:
    """Return the seconds of the epochs in a `result.json`; it has None for one whose seconds were lost."""
    known = [(epoch, one) for epoch, one in enumerate(result.get("epoch_seconds") or (), start=1) if one is not None]
    return _ascending(*zip(*known, strict=True)) if known else None


def _final(values: Mapping[str, Any]) -> dict[str, float]:
    """Return the metrics of a model's quality, without those measured within an epoch, and the energy if it is known.

    The former are the training metrics if the run has neither validation nor test.
    """
    figures = {
        name: float(value)
        for name, value in values.items()
        if not name.endswith("_step") and isinstance(value, int | float)
    }
    held_out = {name: value for name, value in figures.items() if name.startswith(("val/", "test/"))}
    quality = held_out or {name: value for name, value in figures.items() if name.startswith("train/")}
    return quality | {name: value for name, value in figures.items() if name == energy.METRIC}


def _config(path: Path) -> dict[str, Any]:
    try:
        config = nesting.load_saved(path)
    except (OSError, ValueError, RecursionError, yaml.YAMLError, ConfigError):
        return {}
    return config if isinstance(config, dict) else {}


def _result(run_id: str, uri: str) -> dict[str, Any]:
    """Read the `result.json` among a run's artifacts; empty if there is none yet, or it cannot be fetched."""
    saved = SavedRun(f"runs={run_id}", None, run_id, uri)
    try:
        path = saved.file(layout.RESULT)
    except ConfigError:
        return {}
    return read_result(path.parent) if path is not None else {}


_codes: dict[tuple[str, str], Code | None] = {}
"""The records that were fetched, by store and hash: the jobs of a sweep have the same."""


def _code(run_id: str, uri: str, digest: str | None) -> Code | None:
    """Read the record of the code among a run's artifacts; None if there is none, or it cannot be fetched."""
    if digest is None:
        return None
    if (uri, digest) not in _codes:
        try:
            _codes[uri, digest] = StoredCode(SavedRun(f"runs={run_id}", None, run_id, uri)).record
        except ConfigError:
            return None
    return _codes[uri, digest]
