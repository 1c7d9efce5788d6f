"""What MLflow has of runs: versions in its registry, and files on this machine, which MLflow's own calls remove."""

import os
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from runner.config import store_variable
from runner.errors import StoreError
from runner.rundir import layout
from runner.rundir.delivery_state import DeliveryState
from runner.rundir.manifest import manifest_of
from runner.rundir.ownership import is_own_folder
from runner.tracking.local_files import local_folder, refuse_links
from runner.tracking.store import connect, ui_of
from runner.util.uri import sqlite_file

if TYPE_CHECKING:
    from mlflow import MlflowClient

AWAY = "its store is away"
REGISTERED = "registered"


@dataclass(frozen=True)
class Artifacts:
    """Files of a run in a store on this machine.

    Attributes:
        location: of the artifacts of a run or a logged model, as MLflow names it.
        name: of the folder in it; empty for all of them.
    """

    location: str
    name: str = ""

    @property
    def path(self) -> Path:
        """Where they are."""
        folder = local_folder(self.location)
        assert folder is not None
        return folder / self.name

    def remove(self) -> None:
        """Remove them as `mlflow gc` does.

        Raises:
            StoreError: there is a link.
            Exception: they cannot be removed.
        """
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

        refuse_links(self.location, self.name)
        get_artifact_repository(self.location).delete_artifacts(self.name or None)


@dataclass
class Stores:
    """The MLflow stores of runs; each is opened once."""

    _clients: dict[str, "MlflowClient | None"] = field(default_factory=dict)
    _registered: dict[str, set[str]] = field(default_factory=dict)

    def why_kept(self, folder: Path) -> str | None:
        """Return why MLflow needs a run; None if it does not, or does not have it."""
        run_id, uri = _run_of(folder)
        if run_id is None or uri is None:
            return None
        client = self._connect(uri)
        if client is None:
            return AWAY
        return REGISTERED if {run_id, DeliveryState.load(folder).model_id} & self._registered[uri] else None

    def models(self, folder: Path) -> dict[str, Artifacts]:
        """Return the logged models of a run whose files are on this machine, by id. A server's are its owner's matter.

        Raises:
            Exception: the store does not answer.
        """
        run_id, uri = _run_of(folder)
        client = self._connect(uri) if uri is not None else None
        if run_id is None or uri is None or client is None or ui_of(uri) is not None:
            return {}
        ids = [output.model_id for output in client.get_run(run_id).outputs.model_outputs]
        found = {}
        for model_id in ids:
            with suppress(Exception):  # it is deleted already
                artifacts = Artifacts(client.get_logged_model(model_id).artifact_location)
                found[model_id] = artifacts
        return {model_id: artifacts for model_id, artifacts in found.items() if _is_own(artifacts, folder, model_id)}

    def copies(self, folder: Path) -> list[Artifacts]:
        """Return the artifacts of a run on this machine that are copies of what `clean` removes, or links to it.

        Raises:
            Exception: the store does not answer.
        """
        run_id, uri = _run_of(folder)
        client = self._connect(uri) if uri is not None else None
        if run_id is None or uri is None or client is None or ui_of(uri) is not None:
            return []
        location = client.get_run(run_id).info.artifact_uri
        found = [Artifacts(location, name) for name in (layout.CHECKPOINTS, layout.MODEL)]
        return [artifacts for artifacts in found if _is_own(artifacts, folder, run_id)]

    def delete_model(self, folder: Path, model_id: str) -> None:
        """Delete a logged model from a store, which hides it.

        Raises:
            Exception: the store refuses.
        """
        _, uri = _run_of(folder)
        client = self._connect(uri) if uri is not None else None
        if client is None:
            raise StoreError("the tracking store is away")
        client.delete_logged_model(model_id)

    def _connect(self, uri: str) -> "MlflowClient | None":
        """Connect to a store, and read which of its runs and models are registered; None if it does not answer."""
        if uri not in self._clients:
            self._clients[uri] = None
            with suppress(Exception):  # each kind of store raises its own exceptions
                client = connect(uri)
                self._registered[uri] = _registered(client)
                self._clients[uri] = client
        return self._clients[uri]


def _registered(client: "MlflowClient") -> set[str]:
    """Return the ids of the runs and logged models that are versions of registered models."""
    found, token = set[str](), None
    while True:
        page = client.search_model_versions(page_token=token)
        for version in page:
            found |= {str(each) for each in (version.run_id, version.model_id) if each}
            found.add(str(version.source).removeprefix("models:/"))
        token = page.token
        if not token:
            return found


def _run_of(folder: Path) -> tuple[str | None, str | None]:
    """Return the id of a run and the address of its store; None for what there is not."""
    manifest = manifest_of(folder)
    if manifest is None:
        return None, None
    uri = store_variable.add_credentials(manifest.uri)
    file = sqlite_file(uri)
    return DeliveryState.load(folder).run_id, None if file is not None and not file.exists() else uri


def _is_own(artifacts: Artifacts, folder: Path, of: str) -> bool:
    """Whether artifacts are where a run's manifest has them: who may write to a store can name any other place.

    Args:
        artifacts: as the store names them.
        folder: of the run.
        of: the id of the run or the logged model, which is a folder of the path.
    """
    manifest, path = manifest_of(folder), local_folder(artifacts.location)
    if manifest is None or manifest.artifact_root is None or path is None or not is_own_folder(artifacts.path):
        return False
    place, root = Path(os.path.realpath(path)), Path(os.path.realpath(manifest.artifact_root))
    return place.is_relative_to(root) and of in place.relative_to(root).parts
