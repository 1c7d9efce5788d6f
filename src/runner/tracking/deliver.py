"""Upload a run's folder to MLflow, in order, without duplicates, and resume after an interruption."""

from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from runner.config.store_variable import add_credentials
from runner.rundir import journal_check, layout
from runner.rundir.delivery_state import DeliveryState
from runner.rundir.folders import outputs
from runner.rundir.lock import one_at_a_time
from runner.rundir.manifest import FOLDER, Manifest
from runner.rundir.uploaded_files import UploadedFiles
from runner.tracking import artifacts
from runner.tracking.changed_folders import ChangedFolders
from runner.tracking.description import describe
from runner.tracking.local_files import refuse_linked_folder
from runner.tracking.metric_upload import MetricUpload, fetch_back
from runner.tracking.open_run import OpenRun, existing_run, find_or_create_run, find_parent, tags_of
from runner.tracking.run_owner import NotOwner, take_over
from runner.tracking.store import connect, get_or_create_experiment, resolve_store
from runner.util.tags import with_legal_names
from runner.util.uri import strip_credentials

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run


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
    if state.refused or state.tags != tags_of(manifest):  # a sweep's results get late run ids after its end
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
        is_new: whether the run's key is new, so that no store has the run.

    Attributes:
        is_behind: whether the last step has left points for the next one.
    """

    def __init__(self, folder: Path, uri: str | None = None, is_new: bool = False) -> None:
        self.folder = folder
        self.state = DeliveryState.load(folder)
        self._saved = asdict(self.state)
        self._uri, self._is_new = uri, is_new
        self._client: MlflowClient | None = None
        self._opened: OpenRun | None = None
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
        try:
            done = self._step(limit)
        except Exception:
            self._is_new, self._metrics = False, None  # it is unknown what MLflow has got
            if self._opened is not None:
                self._opened.has_failed = True
            with suppress(OSError):
                self._save()
            raise
        self._save()
        return done

    def _step(self, limit: int | None) -> bool:
        # Read before the journal: the manifest of an ended run was written after the last metric.
        manifest = Manifest.load(self.folder)
        client, opened = self._open(manifest)
        run_id = opened.run.info.run_id
        if self.state.status != "RUNNING" and manifest.status == "RUNNING":
            client.update_run(run_id, status="RUNNING")  # a resumed run
            self.state.status, self.state.end_time = "RUNNING", None
        describe(client, run_id, manifest, self.state)
        # Before the metrics: MLflow never lacks metrics from before its newest checkpoint.
        pinned = artifacts.pin_checkpoints(self.folder, self._files) if manifest.log_checkpoints else []
        self.is_behind = not self._send_metrics(client, opened, manifest, limit)
        if self.is_behind:
            return False
        if manifest.status == "RUNNING":
            if self._begun:
                artifacts.deliver_early(client, self.folder, opened.run, pinned, self._files, self._changed)
            self._begun = True  # not in the first step, as the first epoch waits for it
            return False
        up_to_date = (self.state.status, self.state.end_time) == (manifest.status, manifest.end_time)
        if not up_to_date and manifest.status != "FINISHED":  # at once: there may be no time for the files
            client.set_terminated(run_id, manifest.status, manifest.end_time)
        artifacts.deliver(client, self.folder, opened, manifest, self.state, self._files)
        # Last: a run that is FINISHED in MLflow is complete there.
        if not up_to_date:
            client.set_terminated(run_id, manifest.status, manifest.end_time)
            self.state.status, self.state.end_time = manifest.status, manifest.end_time
        return True

    def fetch_back(self) -> int:
        """Add to the journal what only MLflow has; no process may write to it.

        Returns:
            The number of points that were added.

        Raises:
            StoreError, MlflowException: as `step`.
        """
        client, opened = self._open(Manifest.load(self.folder))
        return fetch_back(client, opened.run.info.run_id, self.folder / layout.JOURNAL)

    def _open(self, manifest: Manifest) -> tuple["MlflowClient", OpenRun]:
        """Connect once, and find or create the run."""
        if self._client is not None and self._opened is not None:
            return self._client, self._opened
        uri = self._uri or add_credentials(manifest.uri)
        client = self._client or connect(uri)
        # The process of a killed run may be creating it still, while another one resumes it already.
        with one_at_a_time(self.folder / FOLDER):
            self._take_id_of_another()
            run = existing_run(client, uri, self.state.run_id) if self.state.run_id is not None else None
            opened = OpenRun(run) if run is not None else self._find_or_create(client, uri, manifest)
            try:
                take_over(client, opened.run, manifest)
            except NotOwner:
                self.state = DeliveryState(lost_run_id=self.state.run_id)
                self._save()
                raise
            self._save()  # at once: the process of the run waits for the id
        refuse_linked_folder(opened.run.info.artifact_uri)
        self._forget_what_is_lost(opened.run, manifest)
        self._files = UploadedFiles(self.folder, self.state)
        self._client, self._opened = client, opened
        return client, opened

    def _take_id_of_another(self) -> None:
        """Read the state again if it had no id: another process may have created the run since."""
        if self.state.run_id is None and (found := DeliveryState.load(self.folder)).run_id is not None:
            self.state, self._saved = found, asdict(found)

    def _find_or_create(self, client: "MlflowClient", uri: str, manifest: Manifest) -> OpenRun:
        """Find or create the run, and note its id."""
        experiment_id = manifest.experiment_id or get_or_create_experiment(
            client, uri, manifest.experiment, self._artifact_root(manifest)
        )
        parent_run_id = find_parent(client, experiment_id, manifest)
        opened = find_or_create_run(client, experiment_id, parent_run_id, manifest, self.folder, self._is_new)
        self.state = DeliveryState(str(opened.run.info.run_id), experiment_id, parent_run_id)
        if opened.is_created:
            sent = opened.run.data.tags
            self.state.tags = {key: value for key, value in tags_of(manifest).items() if sent.get(key) == value}
        return opened

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

    def _send_metrics(self, client: "MlflowClient", opened: OpenRun, manifest: Manifest, limit: int | None) -> bool:
        """Upload the new points of the journal; return whether there are no others."""
        if self._metrics is None:
            run = client.get_run(opened.run.info.run_id) if opened.has_failed else opened.run
            self._metrics = MetricUpload(client, run, self.folder, self.state, self._save)
        return self._metrics.step(manifest.status == "RUNNING", limit)

    def _save(self) -> None:
        """Write the state if it has changed."""
        if (state := asdict(self.state)) != self._saved:
            self.state.save(self.folder)
            self._saved = state
