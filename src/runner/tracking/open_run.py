"""Find the MLflow run of a folder, or create it."""

import getpass
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from runner.errors import StoreError
from runner.rundir.manifest import Manifest
from runner.tracking.store import deleted_experiment, mlflow_command
from runner.tracking.trouble import refuses_content
from runner.util.tags import FOLDER_TAG, KEY_TAG, TAG_LENGTH, with_legal_names

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run


@dataclass
class OpenRun:
    """A run that is open for uploads.

    Attributes:
        run: as the store had it when it was opened.
        is_created: whether this process has created it.
        has_failed: whether a call has failed since, so that it is unknown what MLflow has.
    """

    run: "Run"
    is_created: bool = False
    has_failed: bool = False

    @property
    def is_known(self) -> bool:
        """Whether all that MLflow has of the run was sent by this process, so that MLflow need not be asked."""
        return self.is_created and not self.has_failed


def tags_of(manifest: Manifest) -> dict[str, str]:
    """Return the tags of a run as MLflow accepts them."""
    return {key: value[:TAG_LENGTH] for key, value in with_legal_names(manifest.tags).items()}


def existing_run(client: "MlflowClient", uri: str, run_id: str) -> "Run | None":
    """Return a run that was created before; None if the store was moved away and created again.

    Raises:
        StoreError: the run, or its experiment, was deleted.
    """
    from mlflow.exceptions import MlflowException

    try:
        run = client.get_run(run_id)
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return None
        raise
    if run.info.lifecycle_stage != "active":
        # Deleting and restoring an experiment includes its runs; restoring only the run would not help.
        experiment = client.get_experiment(run.info.experiment_id)
        if experiment.lifecycle_stage != "active":
            raise deleted_experiment(uri, experiment.name, experiment.experiment_id)
        raise StoreError(
            f"the run {run_id} was deleted in the tracking store; restore it with:"
            f" {mlflow_command(uri, 'runs', 'restore', '--run-id', run_id)}"
        )
    return run


def find_parent(client: "MlflowClient", experiment_id: str, manifest: Manifest) -> str | None:
    """Return the id of the sweep's run that a run belongs to; None for a single run.

    Raises:
        StoreError: the sweep's run is not in the store yet.
    """
    if manifest.parent_key is None or manifest.parent_run_id is not None:
        return manifest.parent_run_id
    parent_run_id = _find(client, experiment_id, manifest.parent_key)
    if parent_run_id is None:
        raise StoreError("its sweep is not in the store; upload the sweep first")
    return parent_run_id


def find_or_create_run(
    client: "MlflowClient",
    experiment_id: str,
    parent_run_id: str | None,
    manifest: Manifest,
    folder: Path,
    is_new: bool,
) -> OpenRun:
    """Return the run with a manifest's key; it is created if the search does not find it.

    Args:
        client: of the store.
        experiment_id: of the experiment.
        parent_run_id: of the sweep's run.
        manifest: of the run.
        folder: of the run.
        is_new: whether the run cannot exist yet, so that it is not searched: a search reads all runs of the experiment.
    """
    run_id = None if is_new else _find(client, experiment_id, manifest.key)
    if run_id is not None:
        return OpenRun(client.get_run(run_id))
    tags = {
        KEY_TAG: manifest.key,
        FOLDER_TAG: str(folder.resolve()),
        "mlflow.source.name": "runner",
        "mlflow.source.type": "LOCAL",
        "mlflow.user": _user(),
    }
    if parent_run_id is not None:
        tags["mlflow.parentRunId"] = parent_run_id

    def create(tags: dict[str, str]) -> OpenRun:
        return OpenRun(client.create_run(experiment_id, manifest.start_time, tags, manifest.run_name), is_created=True)

    try:
        return create(tags | tags_of(manifest))
    except Exception as error:
        if refuses_content(error) is None:
            raise
    return create(tags)  # the others are sent one by one then


def _find(client: "MlflowClient", experiment_id: str, key: str) -> str | None:
    """Return the id of the run with a manifest's key."""
    runs = client.search_runs([experiment_id], f"tags.`{KEY_TAG}` = '{key}'", max_results=1)
    return str(runs[0].info.run_id) if runs else None


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container without a user entry
        return "unknown"
