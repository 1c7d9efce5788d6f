"""The tracker: the object that a run logs its metrics to."""

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from runner.rundir import layout
from runner.rundir.claim import claim
from runner.rundir.delivery_state import DeliveryState
from runner.rundir.journal import Journal
from runner.rundir.manifest import Manifest, has_manifest
from runner.rundir.reserve import Reserve
from runner.tracking.pages import newest_table, run_page, table_page
from runner.tracking.process import DeliveryProcess
from runner.tracking.restore import restore_journal
from runner.tracking.store import ui_command, ui_of
from runner.tracking.system import SystemMetrics
from runner.util.uri import strip_credentials


class Deliverer(Protocol):
    """Uploads a run to MLflow: a separate process, or that of the sweep that the run belongs to."""

    def deliver(self, folder: Path) -> None:
        """Start to upload a run's folder, which has a manifest."""

    def settle(self, timeout: float) -> None:
        """Wait until it uses little of the CPU."""

    def run_id(self, timeout: float = 0.0) -> str | None:
        """Return the run's id in MLflow; waits at most so many seconds."""

    def close(self, timeout: float, longest: float | None = None) -> bool:
        """Upload the rest, and wait for it (see `DeliveryProcess.close`); return whether everything is uploaded."""


class Tracker:
    """Writes the journal, samples the machine, and has both uploaded to MLflow.

    Args:
        folder: the run's folder; if it was tracked before, the same MLflow run is continued.
        manifest: what MLflow needs to know; None records in the folder only.
        uri: the user's address of the store, with credentials, which are not written to disk.
        delivery: the uploading process if it was started earlier, to be ready by now.

    Raises:
        OSError: the folder cannot be written.
    """

    def __init__(
        self,
        folder: Path,
        manifest: Manifest | None,
        uri: str | None = None,
        delivery: Deliverer | None = None,
    ) -> None:
        self.folder = folder
        if manifest is not None and has_manifest(folder):
            claim(folder)
        restore_journal(folder, uri)
        self._journal = Journal(folder / layout.JOURNAL)
        self._manifest = manifest
        self._delivery: Deliverer | None = None
        if manifest is not None:
            if has_manifest(folder):
                self._manifest = manifest = Manifest.load(folder).resumed(manifest)
            manifest.save(folder)
            self._reserve = Reserve(folder / layout.TRACKING)
            self._delivery = delivery or DeliveryProcess(uri)
            self._delivery.deliver(folder)
        self._system = SystemMetrics(self._journal)
        self._system.start()

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Log the metrics of a step: on disk when this returns, in MLflow soon after."""
        self._journal.write(metrics, step)

    def tag(self, tags: Mapping[str, str]) -> None:
        """Set tags of the MLflow run, such as the error of a failed run."""
        if self._manifest is not None and self._delivery is not None:
            self._manifest.tags.update(tags)
            self._save(self._manifest)

    def settle(self, timeout: float) -> None:
        """Wait, before the first epoch, until MLflow is imported and the store exists: both would slow it down."""
        if self._delivery is not None:
            self._delivery.settle(timeout)

    def sync(self) -> None:
        """Wait until all metrics are on the disk; called before a checkpoint is written."""
        self._journal.sync()

    def end(self, status: str) -> None:
        """End the run, whose upload goes on after the end of this process; a second call does nothing.

        All files of the folder must be written before.

        Args:
            status: FINISHED, FAILED, KILLED or PAUSED.
        """
        self._system.stop()
        self._journal.close()
        if self._manifest is not None and self._manifest.status == "RUNNING":
            self._manifest = self._manifest.ended(status)
            self._save(self._manifest)
            self._reserve.release()

    def _save(self, manifest: Manifest) -> None:
        """Save the manifest, on a full disk in the room that was kept for it: MLflow has the status from there."""
        try:
            manifest.save(self.folder)
        except OSError:
            self._reserve.release()
            manifest.save(self.folder)

    def close(self, status: str, timeout: float = 10.0) -> bool:
        """End the run, and wait for its upload.

        Args:
            status: see `end`.
            timeout: seconds to wait for the upload; longer while it makes progress, unless the run was stopped.

        Returns:
            True if everything is uploaded, or the run is not tracked.
        """
        self.end(status)
        if self._delivery is None:
            return True
        return self._delivery.close(timeout, timeout if status == "KILLED" else None)

    @property
    def run_id(self) -> str | None:
        """The run's id in MLflow; None while it is unknown, for example if the store is unreachable."""
        return self.wait_for_run_id(0.0)

    def wait_for_run_id(self, timeout: float) -> str | None:
        """Return the run's id, and wait for it: MLflow may still be starting when a short run has ended."""
        return self._delivery.run_id(timeout) if self._delivery is not None else None

    @property
    def parent_run_id(self) -> str | None:
        """The id of the sweep's run; None for a run outside of a sweep."""
        return self._manifest.parent_run_id if self._manifest is not None else None

    @property
    def links(self) -> list[str]:
        """The lines that say how to open the run in MLflow; empty while its id is unknown."""
        state = DeliveryState.load(self.folder)
        if self._manifest is None or state.run_id is None or state.experiment_id is None:
            return []
        uri = strip_credentials(self._manifest.uri)
        server = ui_of(uri)
        if server is None:
            return [f"mlflow     run {state.run_id}: {ui_command(uri)}"]
        table = newest_table(self._manifest.experiment_tags)
        pages = [f"mlflow     {run_page(server, state.experiment_id, state.run_id)}"]
        return pages + ([f"runs       {table_page(server, state.experiment_id, table)}"] if table else [])

    @property
    def location(self) -> str:
        """Where the run is recorded, as text for a message: the store's address without credentials."""
        if self._manifest is None:
            return f"{self.folder} (tracking is off)"
        return f"{strip_credentials(self._manifest.uri)}, experiment {self._manifest.experiment}"
