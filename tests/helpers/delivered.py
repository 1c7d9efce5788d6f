"""MLflow without its start-up time: an empty store to copy, and uploads within the test's process."""

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from filelock import FileLock

from runner.rundir.manifest import Manifest
from runner.sweeps import launch
from runner.tracking import process
from runner.tracking.deliver import Delivery
from runner.tracking.process import DeliveryProcess
from runner.tracking.store import connect, local_uri
from runner.util.uri import sqlite_file


def make_empty_store(shared: Path) -> Path:
    """Return the file of an empty store, which is created once per session, as its schema takes seconds."""
    file = shared / "empty_store" / "mlflow.db"
    with FileLock(shared / "empty_store.lock"):
        if not file.exists():
            (shared / "making").mkdir()
            connect(local_uri(shared / "making"))
            file.parent.mkdir()
            (shared / "making" / "mlflow.db").rename(file)
    return file


def copy_store(empty: Path, folder: Path) -> str:
    """Copy the empty store into a folder, and return its address."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(empty, folder / "mlflow.db")
    return local_uri(folder)


class DeliveryHere:
    """Replaces `DeliveryProcess`: the same upload without a process, which would import MLflow for seconds."""

    empty_store: Path

    def __init__(self, uri: str | None = None) -> None:
        self._uri = uri
        self._deliveries: dict[Path, Delivery] = {}

    def deliver(self, folder: Path, is_new: bool = False) -> None:
        file = sqlite_file(self._uri or Manifest.load(folder).uri)
        if file is not None and not file.exists():
            file.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(self.empty_store, file)
        self._deliveries.setdefault(folder, Delivery(folder, self._uri, is_new)).step()

    def settle(self, timeout: float) -> None: ...

    def run_id(self, timeout: float = 0.0) -> str | None:
        return next((delivery.run_id for delivery in self._deliveries.values()), None)

    def leave(self) -> None: ...

    def close(self, timeout: float, longest: float | None = None) -> bool:
        steps = [delivery.step() for delivery in self._deliveries.values()]
        return all(steps)


class LateDelivery(DeliveryProcess):
    """Uploads by a process that starts with the first folder: a run that is refused before needs none.

    Otherwise it imports MLflow meanwhile, for a second of a core.
    """

    def __init__(self, uri: str | None = None) -> None:
        self._is_needed = False
        super().__init__(uri)

    def _start(self) -> None:
        if self._is_needed:
            super()._start()

    def deliver(self, folder: Path, is_new: bool = False) -> None:
        if not self._is_needed:
            self._is_needed = True
            self._start()
        super().deliver(folder, is_new)

    def leave(self) -> None:
        if self._is_needed:
            super().leave()

    def close(self, timeout: float, longest: float | None = None) -> bool:
        return not self._is_needed or super().close(timeout, longest)


def delivered_late(patch: pytest.MonkeyPatch) -> None:
    """Start the processes that upload when the first run does, unless a test has replaced them."""
    for module in (process, launch):
        if module.DeliveryProcess is DeliveryProcess:
            patch.setattr(module, "DeliveryProcess", LateDelivery)


@contextlib.contextmanager
def delivered_here(empty_store: Path) -> Iterator[None]:
    """Make the runs of this process upload to MLflow themselves."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DeliveryHere, "empty_store", empty_store, raising=False)
        for module in ("tracking.process", "tracking.tracker", "sweeps.launch", "sweeps.results.parent_run"):
            patch.setattr(f"runner.{module}.DeliveryProcess", DeliveryHere)
        yield


def shared_folder(factory: pytest.TempPathFactory) -> Path:
    """Return a folder that all processes of a session share."""
    own = factory.getbasetemp()
    return own.parent if "PYTEST_XDIST_WORKER" in os.environ else own
