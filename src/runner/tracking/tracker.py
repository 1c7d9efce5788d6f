"""The one object a run holds to record what it measures."""

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from runner.rundir import layout
from runner.rundir.delivery_state import DeliveryState
from runner.rundir.journal import Journal
from runner.rundir.manifest import Manifest, has_manifest
from runner.tracking.pages import newest_table, run_page, table_page
from runner.tracking.process import DeliveryProcess
from runner.tracking.store import ui_command, ui_of
from runner.tracking.system import SystemMetrics
from runner.util.uri import strip_credentials


class Deliverer(Protocol):
    """Who tells MLflow of a run: a process of its own, or that of the sweep it belongs to."""

    def deliver(self, folder: Path) -> None:
        """Begin with a run's folder, which has a manifest."""

    def settle(self, timeout: float) -> None:
        """Wait until it needs next to nothing of the machine."""

    def run_id(self, timeout: float = 0.0) -> str | None:
        """The run's id in MLflow, waited for so many seconds."""

    def close(self, timeout: float) -> bool:
        """Deliver the rest, for at most so many seconds; whether there is nothing left to do."""


class Tracker:
    """Writes the journal, samples the machine, and has MLflow told about both.

    Args:
        folder: the run's folder; one that was tracked before goes on as the same MLflow run.
        manifest: what MLflow must be told; None records in the folder only.
        uri: the store's address as the user gave it, credentials included; they are written nowhere.
        delivery: who tells MLflow, if that was started before, to be ready by now.

    Raises:
        OSError: the folder can't be written.
    """

    def __init__(
        self,
        folder: Path,
        manifest: Manifest | None,
        uri: str | None = None,
        delivery: Deliverer | None = None,
    ) -> None:
        self.folder = folder
        self._journal = Journal(folder / layout.JOURNAL)
        self._manifest = manifest
        self._delivery: Deliverer | None = None
        if manifest is not None:
            if has_manifest(folder):
                self._manifest = manifest = Manifest.load(folder).resumed(manifest)
            manifest.save(folder)
            self._delivery = delivery or DeliveryProcess(uri)
            self._delivery.deliver(folder)
        self._system = SystemMetrics(self._journal)
        self._system.start()

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Record the metrics of a step: on disk when this returns, in MLflow soon."""
        self._journal.write(metrics, step)

    def tag(self, tags: Mapping[str, str]) -> None:
        """Set tags of the MLflow run (why it failed, say)."""
        if self._manifest is not None and self._delivery is not None:
            self._manifest.tags.update(tags)
            self._manifest.save(self.folder)

    def settle(self, timeout: float) -> None:
        """Wait, before the first epoch, for what would disturb its timing: MLflow's start, a store being made."""
        if self._delivery is not None:
            self._delivery.settle(timeout)

    def sync(self) -> None:
        """Wait until the disk has every metric; for a checkpoint, which goes on from here."""
        self._journal.sync()

    def close(self, status: str, timeout: float = 10.0) -> bool:
        """End the run: FINISHED, FAILED or KILLED. The folder's files must be written by now.

        Args:
            status: how it ended.
            timeout: seconds that delivery may still take.

        Returns:
            True if everything is delivered (or nothing was to be).
        """
        self._system.stop()
        self._journal.close()
        if self._manifest is None or self._delivery is None:
            return True
        self._manifest = self._manifest.ended(status)
        self._manifest.save(self.folder)
        return self._delivery.close(timeout)

    @property
    def run_id(self) -> str | None:
        """The run's id in MLflow; None while nobody knows it (the store may be away)."""
        return self.wait_for_run_id(0.0)

    def wait_for_run_id(self, timeout: float) -> str | None:
        """The same, waited for: MLflow may still be starting when a short run is over."""
        return self._delivery.run_id(timeout) if self._delivery is not None else None

    @property
    def parent_run_id(self) -> str | None:
        """The run of the sweep that this one belongs to, if it does."""
        return self._manifest.parent_run_id if self._manifest is not None else None

    @property
    def links(self) -> list[str]:
        """How the run is looked at in MLflow, a line each, once its id is known."""
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
        """Where the run is recorded, for people: the store's address without credentials."""
        if self._manifest is None:
            return f"{self.folder} (tracking is off)"
        return f"{strip_credentials(self._manifest.uri)}, experiment {self._manifest.experiment}"
