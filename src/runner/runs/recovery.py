"""Recover a run whose folder is lost from MLflow: its files, its checkpoints, and all metrics."""

import logging
import re
import shutil
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner.errors import ConfigError, abbreviate, to_one_line
from runner.rundir import journal, layout
from runner.rundir.delivery_state import DeliveryState
from runner.rundir.folders import NAME_BYTES, display_path, make_run_folder, outputs
from runner.rundir.manifest import Manifest
from runner.rundir.ownership import is_free_in_own_outputs
from runner.saved.run import SavedRun
from runner.tracking.local_files import refuse_links
from runner.tracking.metric_upload import METRIC_TAG, fetch_points, merge, own_names
from runner.tracking.trouble import explain
from runner.util.tags import FOLDER_TAG, KEY_TAG, OWNER_TAG, PARAM_LENGTH, with_legal_names

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

log = logging.getLogger("runner")

_ALIVE_SECONDS = 60.0  # system metrics are measured and uploaded every ten seconds
_UPDATES = "system/cpu_utilization_percentage"


def fetch(run: SavedRun) -> Path:
    """Download a run's files from MLflow into a temporary folder, which exists as long as the `SavedRun`.

    Raises:
        ConfigError: MLflow has no checkpoint of the run, or the run is still running elsewhere.
    """
    client, was = run.client(), abbreviate(to_one_line(run.tags.get(FOLDER_TAG, "elsewhere")))
    assert run.run_id is not None
    try:
        if not any(file.path.endswith(".pt") for file in client.list_artifacts(run.run_id, layout.CHECKPOINTS)):
            text = (
                f"its folder {was} does not exist here, or is not yours, and MLflow has no checkpoint of it, as"
                " tracking.log_checkpoints was false"
            )
            raise ConfigError(run.problem(text, "write the path of the folder, or start a new run"))
        seconds = _seconds_since_update(client, run.run_id)
        if seconds is not None and seconds < _ALIVE_SECONDS:
            text = f"still running elsewhere, in {was} (last update {seconds:.0f} s ago)"
            raise ConfigError(
                run.problem(text, f"stop it there, or wait until {_ALIVE_SECONDS:.0f} s without an update")
            )
        refuse_links(client.get_run(run.run_id).info.artifact_uri)
        log.info("fetching   %s", run.place)
        return Path(client.download_artifacts(run.run_id, "", run.scratch()))
    except ConfigError:
        raise
    except Exception as error:  # each artifact store raises its own exceptions
        text = f"it cannot be downloaded from MLflow: {explain(error)}"
        raise ConfigError(run.problem(text, topic="store")) from error


def _seconds_since_update(client: "MlflowClient", run_id: str) -> float | None:
    """Return the seconds since the last update of a run that is RUNNING in MLflow; None if it has ended."""
    info = client.get_run(run_id).info
    if info.status != "RUNNING":
        return None
    updates = client.get_metric_history(run_id, _UPDATES)
    return time.time() - max((update.timestamp for update in updates), default=info.start_time) / 1000


def recover(run: SavedRun, fetched: Path, params: Mapping[str, str]) -> Path:
    """Create a run's folder again, as if it had never been lost; it continues the same MLflow run.

    Args:
        run: a run that only MLflow has.
        fetched: the folder of `fetch`.
        params: the parameters with their own names; their values come from MLflow, which does not change them.

    Returns:
        The folder: at its old path, or in the outputs folder.

    Raises:
        ConfigError: the folder cannot be created.
    """
    client = run.client()
    assert run.run_id is not None
    logged = client.get_run(run.run_id)
    was = Path(logged.data.tags.get(FOLDER_TAG, ""))
    if is_free_in_own_outputs(was):  # at its old path its sweep finds it
        folder = make_run_folder(str(was), exact=True)
    else:  # a job of a sweep has a number; both names are the store's, which may hold anything
        name = re.sub(r"[^A-Za-z0-9._-]+", "-", run.name if was.name.isdecimal() else was.name).lstrip(".-")
        folder = make_run_folder(str(outputs() / "runs" / (name[:NAME_BYTES] or "recovered")), exact=False)
    for path in fetched.glob("[!.]*"):  # lock and notes are this folder's own
        (shutil.copytree if path.is_dir() else shutil.copy)(path, folder / path.name)
    written = folder / layout.JOURNAL
    points = fetch_points(client, run.run_id, logged.data.metrics, own_names(logged.data.tags))
    journal.rewrite(written, merge(journal.read(written)[0], points))
    _write_notes(client, run, logged, params, folder)
    log.info("recovered  %s, into %s", run.place, display_path(folder))
    return folder


def _write_notes(client: "MlflowClient", run: SavedRun, logged: "Run", params: Mapping[str, str], folder: Path) -> None:
    """Write the manifest of the run, and the state that MLflow has everything."""
    info, tags = logged.info, logged.data.tags
    others = ("mlflow.", METRIC_TAG, KEY_TAG, OWNER_TAG)
    own: dict[str, Any] = {key: value for key, value in tags.items() if not key.startswith(others)}
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
        owner=uuid.uuid4().hex,  # should the lost folder turn up again, it is not the run's any more
        former_owners=[tags.get(OWNER_TAG, "")],
        start_time=info.start_time,
        status=info.status,
        end_time=info.end_time,
    ).save(folder)
    DeliveryState(
        run_id=info.run_id,
        experiment_id=info.experiment_id,
        parent_run_id=parent,
        offset=size,
        keys={name: key for key, name in own_names(tags).items()},
        params=True,
        dataset=True,
        tags=own,
        status=info.status,
        end_time=info.end_time,
    ).save(folder)


def _params(there: Mapping[str, str], params: Mapping[str, str]) -> dict[str, str]:
    """Return the parameters with their own names and MLflow's values, except values that MLflow has truncated."""
    values = {}
    for key, name in with_legal_names(dict(zip(params, params, strict=True))).items():
        value = there.get(key, params[name])
        values[name] = value if len(value) < PARAM_LENGTH else params[name]
    return values
