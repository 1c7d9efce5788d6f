"""Upload a run's folder to MLflow, in order, without duplicates, and resume after an interruption."""

import getpass
import json
import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from runner.config.store_variable import add_credentials
from runner.errors import StoreError
from runner.rundir import journal_check, layout
from runner.rundir.delivery_state import DeliveryState
from runner.rundir.folders import outputs
from runner.rundir.manifest import NOTE, Dataset, Manifest
from runner.rundir.uploaded_files import UploadedFiles
from runner.tracking import artifacts
from runner.tracking.changed_folders import ChangedFolders
from runner.tracking.local_files import refuse_linked_folder
from runner.tracking.metric_upload import MetricUpload, fetch_back
from runner.tracking.pieces import send_each, takes_tags
from runner.tracking.run_owner import NotOwner, take_over
from runner.tracking.store import connect, deleted_experiment, get_or_create_experiment, mlflow_command, resolve_store
from runner.util.tags import FOLDER_TAG, KEY_TAG, PARAM_LENGTH, TAG_LENGTH, with_legal_names
from runner.util.terminal import TRACKING, about
from runner.util.uri import strip_credentials

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import DatasetInput, Run

log = logging.getLogger("runner")

T = TypeVar("T")

_PARAMS_PER_BATCH = 100  # MLflow's limit for one request


def outstanding(folder: Path) -> bool:
    """Whether a run's folder has anything that is not uploaded; reads only the folder."""
    try:
        manifest = Manifest.load(folder)
    except (FileNotFoundError, NotADirectoryError):  # not a tracked run, or a file (Hydra's multirun.yaml)
        return False
    except ValueError:  # it is damaged, which the upload reports
        return True
    state = DeliveryState.load(folder)
    ended = (manifest.status, manifest.end_time)
    if manifest.status == "RUNNING" or (state.status, state.end_time) != ended or state.lacks_points:
        return True
    if state.refused or state.tags != _tags(manifest):  # a sweep's results get late run ids after its end
        return True
    path = folder / layout.JOURNAL
    size = path.stat().st_size if path.exists() else 0
    return size != state.offset or journal_check.describe_loss(path, state.offset, state.tail) is not None


class Delivery:
    """The upload of one run's folder; a new object continues where the last one stopped.

    MLflow is asked for the last step of each metric, stores a point that is sent twice with the same timestamp once,
    and accepts a parameter or tag with the same value again. A run, a logged model and its link are searched before
    they are created. So `delivery.json` may lag behind MLflow, and a kill at any moment loses nothing.

    Args:
        folder: the run's folder, with a manifest.
        uri: the store's address if it differs from the manifest's, by credentials or by place.

    Attributes:
        is_behind: whether the last step has left points for the next one.
    """

    def __init__(self, folder: Path, uri: str | None = None) -> None:
        self.folder = folder
        self.state = DeliveryState.load(folder)
        self._uri = uri
        self._client: MlflowClient | None = None
        self._metrics: MetricUpload | None = None
        self._files = UploadedFiles(folder, self.state)
        self._changed = ChangedFolders(folder / layout.ARTIFACTS)
        self._begun = False
        self.is_behind = False

    @property
    def run_id(self) -> str | None:
        """The run's id in MLflow; None before it is created."""
        return self.state.run_id

    @property
    def client(self) -> "MlflowClient | None":
        """The client of the store; None before the first connection."""
        return self._client

    @property
    def backlog(self) -> int:
        """Bytes of the journal that MLflow does not have."""
        try:
            return max(0, (self.folder / layout.JOURNAL).stat().st_size - self.state.offset)
        except OSError:
            return 0

    def step(self, limit: int | None = None) -> bool:
        """Upload everything that is new.

        Args:
            limit: the most bytes of the journal to upload, about; what follows waits for the next call.

        Returns:
            True if the run has ended and MLflow has everything.

        Raises:
            StoreError: the store refuses.
            MlflowException: any other error of MLflow; the next call continues from here.
        """
        # Read before the journal: the manifest of an ended run was written after the last metric.
        manifest = Manifest.load(self.folder)
        client, run_id = self._open(manifest)
        if self.state.status != "RUNNING" and manifest.status == "RUNNING":
            client.update_run(run_id, status="RUNNING")  # a resumed run
            self._remember(status="RUNNING", end_time=None)
        self._describe(client, run_id, manifest)
        # Before the metrics: MLflow never lacks metrics from before its newest checkpoint.
        pinned = artifacts.pin_checkpoints(self.folder, self._files) if manifest.log_checkpoints else []
        self.is_behind = not self._send_metrics(client, run_id, manifest, limit)
        if self.is_behind:
            return False
        if manifest.status == "RUNNING":
            if self._begun:
                artifacts.deliver_early(client, self.folder, run_id, pinned, self._files, self._changed)
            self._begun = True  # not in the first step, as the first epoch waits for it
            return False
        up_to_date = (self.state.status, self.state.end_time) == (manifest.status, manifest.end_time)
        if not up_to_date and manifest.status != "FINISHED":  # at once: there may be no time for the files
            client.set_terminated(run_id, manifest.status, manifest.end_time)
        artifacts.deliver(client, self.folder, manifest, self.state, self._files, self._save)
        # Last: a run that is FINISHED in MLflow is complete there.
        if not up_to_date:
            client.set_terminated(run_id, manifest.status, manifest.end_time)
            self._remember(status=manifest.status, end_time=manifest.end_time)
        return True

    def fetch_back(self) -> int:
        """Add to the journal what only MLflow has; no process may write to it.

        Returns:
            The number of points that were added.

        Raises:
            StoreError, MlflowException: as `step`.
        """
        client, run_id = self._open(Manifest.load(self.folder))
        return fetch_back(client, run_id, self.folder / layout.JOURNAL)

    def _open(self, manifest: Manifest) -> tuple["MlflowClient", str]:
        """Connect once, and find or create the run."""
        if self._client is not None and self.state.run_id is not None:
            return self._client, self.state.run_id
        uri = self._uri or add_credentials(manifest.uri)
        client = self._client or connect(uri)
        if self.state.run_id is None or not _exists(client, uri, self.state.run_id):
            experiment_id = manifest.experiment_id or get_or_create_experiment(
                client, uri, manifest.experiment, self._artifact_root(manifest)
            )
            parent_run_id = _find_parent(client, experiment_id, manifest)
            run_id = _find_or_create_run(client, experiment_id, parent_run_id, manifest, self.folder)
            self.state = DeliveryState(run_id, experiment_id, parent_run_id)
        run = client.get_run(self.state.run_id)
        try:
            take_over(client, run, manifest)
        except NotOwner:
            self.state = DeliveryState(lost_run_id=self.state.run_id)
            self._save()
            raise
        self._save()
        refuse_linked_folder(run.info.artifact_uri)
        self._forget_what_is_lost(run, manifest)
        self._files = UploadedFiles(self.folder, self.state)
        self._client = client
        assert self.state.run_id is not None
        return client, self.state.run_id

    def _forget_what_is_lost(self, run: "Run", manifest: Manifest) -> None:
        """Forget what was noted and the store lacks: a power loss may take its last transactions."""
        self.state.params &= with_legal_names(manifest.params).keys() <= run.data.params.keys()
        self.state.dataset &= run.inputs is not None and bool(run.inputs.dataset_inputs)
        self.state.tags = {key: value for key, value in self.state.tags.items() if key in run.data.tags}
        if run.info.status == "RUNNING":
            self.state.status, self.state.end_time = "RUNNING", None

    def _artifact_root(self, manifest: Manifest) -> str | None:
        """Return the artifact folder of a new experiment; the manifest's is valid for the manifest's store only."""
        if self._uri is None:
            return manifest.artifact_root
        uri, root = resolve_store(self._uri, outputs())
        return manifest.artifact_root if strip_credentials(uri) == manifest.uri else root

    def _describe(self, client: "MlflowClient", run_id: str, manifest: Manifest) -> None:
        """Upload parameters and the data set once, and tags that are new or changed."""
        from mlflow.entities import Param, RunTag

        if manifest.params and not self.state.params:
            params = [Param(key, value[:PARAM_LENGTH]) for key, value in with_legal_names(manifest.params).items()]
            for batch in _batches(params, _PARAMS_PER_BATCH):
                self._send(run_id, "parameter", lambda some: client.log_batch(run_id, params=some), batch)
            self._remember(params=True)
        tags = _tags(manifest)
        changed = [RunTag(key, value) for key, value in tags.items() if self.state.tags.get(key) != value]
        if NOTE in self.state.tags and NOTE in (tag.key for tag in changed):
            now = client.get_run(run_id).data.tags.get(NOTE)
            if now != self.state.tags[NOTE]:  # a user has edited it in the UI
                changed = [tag for tag in changed if tag.key != NOTE]
        for batch in _batches(changed, _PARAMS_PER_BATCH):
            self._send(run_id, "tag", lambda some: client.log_batch(run_id, tags=some), batch)
        removed = [key for key in self.state.tags if key not in tags]  # why the run ended before it was resumed
        for key in removed:
            client.delete_tag(run_id, key)
        if changed or removed:
            self._remember(tags=tags)
        for key, value in manifest.experiment_tags.items():
            if self.state.experiment_tags.get(key) != value:
                client.set_experiment_tag(self.state.experiment_id, key, value)
                self._remember(experiment_tags=self.state.experiment_tags | {key: value})
        if self.state.parent_run_id is not None and manifest.parent_run_id is None and manifest.parent_key is None:
            client.delete_tag(run_id, "mlflow.parentRunId")  # its job was restarted as another run
            self._remember(parent_run_id=None)
        if manifest.dataset is not None and not self.state.dataset:
            dataset = _dataset_input(manifest.dataset)
            self._send(run_id, "data set", lambda some: client.log_inputs(run_id, some), [dataset])
            self._remember(dataset=True)

    def _send_metrics(self, client: "MlflowClient", run_id: str, manifest: Manifest, limit: int | None) -> bool:
        """Upload the new points of the journal; return whether there are no others."""
        metrics = self._metrics or MetricUpload(client, run_id, self.folder, self.state, self._save)
        self._metrics = None  # after an error it is unknown what MLflow has got
        done = metrics.step(manifest.status == "RUNNING", limit)
        self._metrics = metrics
        return done

    def _send(self, run_id: str, kind: str, send: Callable[[Sequence[T]], object], items: Sequence[T]) -> None:
        """Send items together, and warn of those that the store refuses."""
        assert self._client is not None
        refused = send_each(send, items, lambda: takes_tags(self._client, run_id))
        if refused:
            names = ", ".join(str(getattr(item, "key", self.folder.name)) for item, _ in refused)
            log.warning("MLflow does not get the %s %s: %s", kind, names, refused[0][1], extra=about(TRACKING))

    def _remember(self, **changes: object) -> None:
        for name, value in changes.items():
            setattr(self.state, name, value)
        self._save()

    def _save(self) -> None:
        self.state.save(self.folder)


def _exists(client: "MlflowClient", uri: str, run_id: str) -> bool:
    """Whether the store has the run; False for a store that was moved away and created again."""
    from mlflow.exceptions import MlflowException

    try:
        run = client.get_run(run_id)
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return False
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
    return True


def _find(client: "MlflowClient", experiment_id: str, key: str) -> str | None:
    """Return the id of the run with a manifest's key."""
    runs = client.search_runs([experiment_id], f"tags.`{KEY_TAG}` = '{key}'", max_results=1)
    return str(runs[0].info.run_id) if runs else None


def _find_parent(client: "MlflowClient", experiment_id: str, manifest: Manifest) -> str | None:
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


def _find_or_create_run(
    client: "MlflowClient", experiment_id: str, parent_run_id: str | None, manifest: Manifest, folder: Path
) -> str:
    """Return the id of the run with this manifest's key; it is created if the search does not find it."""
    if run_id := _find(client, experiment_id, manifest.key):
        return run_id
    tags = {
        KEY_TAG: manifest.key,
        FOLDER_TAG: str(folder.resolve()),
        "mlflow.source.name": "runner",
        "mlflow.source.type": "LOCAL",
        "mlflow.user": _user(),
    }
    if parent_run_id is not None:
        tags["mlflow.parentRunId"] = parent_run_id
    run = client.create_run(experiment_id, manifest.start_time, tags, manifest.run_name)
    return str(run.info.run_id)


def _tags(manifest: Manifest) -> dict[str, str]:
    """Return the tags of a run as MLflow accepts them."""
    return {key: value[:TAG_LENGTH] for key, value in with_legal_names(manifest.tags).items()}


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container without a user entry
        return "unknown"


def _batches(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    return (items[start : start + size] for start in range(0, len(items), size))


def _dataset_input(dataset: Dataset) -> "DatasetInput":
    from mlflow.entities import Dataset as MlflowDataset
    from mlflow.entities import DatasetInput, InputTag

    remote = dataset.origin.startswith(("http://", "https://"))
    source = {"url": dataset.origin} if remote else {"uri": dataset.origin}
    return DatasetInput(
        MlflowDataset(
            name=dataset.name,
            digest=dataset.digest,
            source_type="http" if remote else "local",
            source=json.dumps(source),
            profile=json.dumps(dataset.profile),
        ),
        [InputTag("mlflow.data.context", "training")],
    )
