"""A run whose folder is gone, out of what MLflow has of it: its files, its checkpoints, every metric at its step."""

import logging
import shutil
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner.errors import ConfigError
from runner.rundir import journal, layout
from runner.rundir.delivery_state import DeliveryState
from runner.rundir.folders import display_path, make_run_folder, outputs
from runner.rundir.journal import MetricPoint
from runner.rundir.manifest import Manifest
from runner.saved.run import SavedRun
from runner.tracking.deliver import METRIC_TAG
from runner.tracking.store import explain
from runner.util.tags import FOLDER_TAG, KEY_TAG, PARAM_LENGTH, with_legal_names

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

log = logging.getLogger("runner")

_ALIVE_SECONDS = 60.0  # system metrics are measured and delivered every ten
_SIGN_OF_LIFE = "system/cpu_utilization_percentage"


def fetch(run: SavedRun) -> Path:
    """Bring everything that MLflow has of a run into a temporary folder, which lives as long as the `SavedRun`.

    Raises:
        ConfigError: there is no checkpoint among it, or the run is at work elsewhere.
    """
    client, was = run.client(), run.tags.get(FOLDER_TAG, "elsewhere")
    assert run.run_id is not None
    try:
        if not any(file.path.endswith(".pt") for file in client.list_artifacts(run.run_id, layout.CHECKPOINTS)):
            raise ConfigError(
                f"{run.argument}: its folder is not here (it was {was}), and MLflow has no checkpoint of it, as it ran"
                " without tracking.log_checkpoints=true; write the folder's present place, or start anew"
            )
        silent = _silent_seconds(client, run.run_id)
        if silent is not None and silent < _ALIVE_SECONDS:
            raise ConfigError(
                f"{run.argument}: it is at work elsewhere, in {was}: MLflow has heard of it {silent:.0f} s ago;"
                f" stop it there, or try again once it has been silent for {_ALIVE_SECONDS:.0f} s"
            )
        log.info("fetching   %s", run.place)
        return Path(client.download_artifacts(run.run_id, "", run.scratch()))
    except ConfigError:
        raise
    except Exception as error:  # an artifact store answers with exceptions of its own
        raise ConfigError(f"{run.argument}: it cannot be fetched from MLflow: {explain(error)}") from error


def _silent_seconds(client: "MlflowClient", run_id: str) -> float | None:
    """How long ago a run that calls itself running has last given a sign of life; None if it has ended."""
    info = client.get_run(run_id).info
    if info.status != "RUNNING":
        return None
    signs = client.get_metric_history(run_id, _SIGN_OF_LIFE)
    return time.time() - max((sign.timestamp for sign in signs), default=info.start_time) / 1000


def recover(run: SavedRun, fetched: Path, params: Mapping[str, str]) -> Path:
    """Make a folder for a run again, as if it had never been gone: it goes on as the same MLflow run.

    Args:
        run: that only MLflow has.
        fetched: what `fetch` has brought.
        params: the parameters under their own names; their values are MLflow's, which cannot be changed.

    Returns:
        The folder: where it was, or in the outputs folder.

    Raises:
        ConfigError: it cannot be made.
    """
    client = run.client()
    assert run.run_id is not None
    logged = client.get_run(run.run_id)
    was = Path(logged.data.tags[FOLDER_TAG])
    if was.parent.is_dir() and not was.exists():  # where it was, that its sweep finds it again
        folder = make_run_folder(str(was), exact=True)
    else:
        name = run.name if was.name.isdecimal() else was.name  # a job of a sweep has a number
        folder = make_run_folder(str(outputs() / "runs" / name), exact=False)
    shutil.copytree(fetched, folder, dirs_exist_ok=True)
    journal.rewrite(folder / layout.JOURNAL, _points(client, logged, folder / layout.JOURNAL))
    _write_notes(client, run, logged, params, folder)
    log.info("recovered  %s, into %s", run.place, display_path(folder))
    return folder


def _points(client: "MlflowClient", logged: "Run", path: Path) -> list[MetricPoint]:
    """Every metric at every step, in the order of their times; under the names that the run itself has for them."""
    names = _own_names(logged.data.tags)
    points = {(point.name, point.step): point for point in journal.read(path)[0]}
    for key in logged.data.metrics:
        for metric in client.get_metric_history(logged.info.run_id, key):
            name = names.get(key, key)
            point = MetricPoint(name, _value(metric.value), metric.step, metric.timestamp / 1000)
            points.setdefault((name, metric.step), point)
    return sorted(points.values(), key=lambda point: point.time)


def _own_names(tags: Mapping[str, str]) -> dict[str, str]:
    """What the run calls the metrics that MLflow has under other names."""
    return {key.removeprefix(METRIC_TAG): name for key, name in tags.items() if key.startswith(METRIC_TAG)}


def _value(value: float) -> float:
    """Databases have no infinity: MLflow keeps the largest number there is for it."""
    return value * float("inf") if abs(value) == sys.float_info.max else value


def _write_notes(client: "MlflowClient", run: SavedRun, logged: "Run", params: Mapping[str, str], folder: Path) -> None:
    """Write what the run has told MLflow, and that MLflow has it."""
    info, tags = logged.info, logged.data.tags
    own: dict[str, Any] = {
        key: value for key, value in tags.items() if not key.startswith(("mlflow.", METRIC_TAG)) and key != KEY_TAG
    }
    parent = tags.get("mlflow.parentRunId")
    size = (folder / layout.JOURNAL).stat().st_size
    assert run.uri is not None
    Manifest(
        uri=run.uri,
        experiment=client.get_experiment(info.experiment_id).name,
        run_name=info.run_name,
        params=_params(logged.data.params, params),
        tags=own,
        parent_run_id=parent,
        key=tags[KEY_TAG],
        start_time=info.start_time,
        status=info.status,
        end_time=info.end_time,
    ).save(folder)
    DeliveryState(
        run_id=info.run_id,
        experiment_id=info.experiment_id,
        parent_run_id=parent,
        offset=size,
        keys={name: key for key, name in _own_names(tags).items()},
        params=True,
        dataset=True,
        tags=own,
        status=info.status,
        end_time=info.end_time,
    ).save(folder)


def _params(there: Mapping[str, str], params: Mapping[str, str]) -> dict[str, str]:
    """Parameters under their own names with the values that MLflow has, as far as it has the whole of them."""
    kept = {}
    for key, name in with_legal_names(dict(zip(params, params, strict=True))).items():
        value = there.get(key, params[name])
        kept[name] = value if len(value) < PARAM_LENGTH else params[name]
    return kept
