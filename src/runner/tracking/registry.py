"""MLflow's model registry: versions of a registered model, and the one that has the alias `champion`."""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from runner.rundir.looks import Look
from runner.tracking.store import exclusive, ui_of
from runner.util.tags import LOOKS_TAG, WEIGHTS_TAG

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

ALIAS = "champion"
CHOSEN = " champion"
"""Follows a version in the list of looks if it became the champion."""

_OF_MODELS = "models:/"
_TRACKING_URI = "MLFLOW_TRACKING_URI"
_VERSIONS = "mlflow.modelVersions"
"""The tag of a logged model by which MLflow's pages show its versions."""


@dataclass(frozen=True)
class Version:
    """A version of a registered model.

    Attributes:
        number: as MLflow counts them.
        run_id: of the run that it comes from; empty if MLflow does not know it.
        model_id: of the logged model that it is; None if it was registered from other files.
        tags: its tags.
    """

    number: str
    run_id: str
    model_id: str | None
    tags: Mapping[str, str] = field(default_factory=dict)


class Registry:
    """A registered model of a store.

    Args:
        client: of the store.
        name: of the registered model, which `create` creates.
    """

    def __init__(self, client: "MlflowClient", name: str) -> None:
        self._client, self.name = client, name

    def create(self) -> None:
        """Create the registered model, unless it exists.

        Raises:
            MlflowException: the store has no registry, or refuses.
        """
        from mlflow.exceptions import MlflowException

        try:
            self._client.create_registered_model(self.name)
        except MlflowException as error:
            if error.error_code not in ("RESOURCE_ALREADY_EXISTS", "ALREADY_EXISTS"):
                raise

    def find(self, run_id: str, weights: str) -> Version | None:
        """Return the version with the weights of a run; None if there is none."""
        found = self._client.search_model_versions(f"name = '{self.name}' and run_id = '{run_id}'")
        versions = map(_version, found)
        return next((version for version in versions if version.tags.get(WEIGHTS_TAG) == weights), None)

    def add(self, run_id: str, model_id: str, tags: Mapping[str, str]) -> Version:
        """Make a logged model a version, with its tags in the same step."""
        client, source = self._client, f"{_OF_MODELS}{model_id}"
        if ui_of(client.tracking_uri) is not None:
            return _version(client.create_model_version(self.name, source, run_id, dict(tags), model_id=model_id))
        with _as_default(client.tracking_uri):
            made = _version(client.create_model_version(self.name, source, run_id, dict(tags), model_id=model_id))
        links = json.loads(client.get_logged_model(model_id).tags.get(_VERSIONS, "[]"))  # as a server does it
        links.append({"name": self.name, "version": int(made.number)})
        client.set_logged_model_tags(model_id, {_VERSIONS: json.dumps(links)})
        return made

    def tag(self, version: Version, tags: Mapping[str, str]) -> None:
        """Set tags of a version."""
        for name, value in tags.items():
            self._client.set_model_version_tag(self.name, version.number, name, value)

    def champion(self) -> Version | None:
        """Return the version with the alias; None if no version has it."""
        number = self._client.get_registered_model(self.name).aliases.get(ALIAS)
        return None if number is None else _version(self._client.get_model_version(self.name, str(number)))

    def promote(self, version: Version, former: Version | None) -> None:
        """Move the alias to a version, unless it is no longer at the one that was compared with.

        In a SQLite store nobody can move it in between. On a server another process may, within milliseconds: read
        the champion again.
        """
        with exclusive(self._client.tracking_uri):
            now = self.champion()
            if (now and now.number) == (former and former.number):
                self._client.set_registered_model_alias(self.name, ALIAS, version.number)

    def look(self, digest: str, version: Version, chosen: bool) -> None:
        """Record that a test part has decided about a version, once: in a tag, which outlives deleted versions.

        Args:
            digest: of the test part.
            version: that was judged.
            chosen: whether it becomes the champion.
        """
        with exclusive(self._client.tracking_uri):
            looks = self._looks(digest)
            text = f"{version.number}{CHOSEN if chosen else ''}"
            if looks.get(version.number) != text:
                value = ", ".join((looks | {version.number: text}).values())
                self._client.set_registered_model_tag(self.name, _tag(digest), value)

    def find_look(self, digest: str, version: Version) -> Look | None:
        """Return the look at a test part that has decided about a version, counted in their order; None without one."""
        texts = self._looks(digest)
        if version.number not in texts:
            return None
        place = list(texts).index(version.number) + 1
        champions = sum(text.endswith(CHOSEN) for text in list(texts.values())[:place])
        return Look(self.name, version.number, place, champions, texts[version.number].endswith(CHOSEN))

    def _looks(self, digest: str) -> dict[str, str]:
        """Return the versions that were judged by a test part, in order, with what the tag says of each."""
        value = self._client.get_registered_model(self.name).tags.get(_tag(digest), "")
        return {text.removesuffix(CHOSEN): text for text in value.split(", ") if text}


def _tag(digest: str) -> str:
    return f"{LOOKS_TAG}{digest[:12]}"


def _version(found: "ModelVersion") -> Version:
    source = str(found.source or "")
    model_id = source.removeprefix(_OF_MODELS) if source.startswith(_OF_MODELS) and "/" not in source[8:] else None
    return Version(str(found.version), found.run_id or "", model_id, dict(found.tags))


@contextmanager
def _as_default(uri: str) -> Iterator[None]:
    """Make a database MLflow's default for a moment.

    MLflow 3.17 looks the logged model of a new version up in its default store, whatever the client's is.
    """
    import mlflow

    variable = os.environ.get(_TRACKING_URI)  # MLflow sets it too
    former = mlflow.get_tracking_uri() if mlflow.is_tracking_uri_set() else None
    mlflow.set_tracking_uri(uri)
    try:
        yield
    finally:
        mlflow.set_tracking_uri(former)
        if variable is None:
            os.environ.pop(_TRACKING_URI, None)
        else:
            os.environ[_TRACKING_URI] = variable
