"""MLflow without its start-up time: an empty store to copy, and uploads within the test's process."""

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from filelock import FileLock

from runner.rundir.manifest import Manifest
from runner.tracking.deliver import Delivery
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
