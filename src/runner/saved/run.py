"""A run that was made before: found by its folder or its MLflow id, and what is left of it.

What it left is read in its folder; where that is gone, or on another machine, out of MLflow.
"""

import os
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import yaml

from runner.config import store_variable
from runner.config.keys import GROUPS, PRESETS
from runner.errors import ConfigError, StoreError
from runner.rundir import layout
from runner.rundir.delivery_state import DeliveryState
from runner.rundir.folders import display_path, outputs, parse_path
from runner.rundir.manifest import manifest_of, own_folder
from runner.tracking.store import connect, describe_refusal, explain, local_uri
from runner.util.files import load_json_or_empty
from runner.util.tags import FOLDER_TAG, KEY_TAG
from runner.util.uri import sqlite_file, strip_credentials

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

WANTED = "write a run's folder or MLflow run id"


@dataclass
class SavedRun:
    """What is known of a run.

    Attributes:
        argument: the option that named it, as it was typed: `run=outputs/runs/...`.
        folder: its own; None if it is not here, or not to be looked into.
        run_id: in MLflow; None if it is not known there.
        uri: of the MLflow store that has it.
        config: as it was resolved, without credentials.
        choices: which member of each group was chosen, as far as is recorded.
        name: in MLflow, or of the folder.
        tags: what it was searched by in MLflow, `runner.data_fingerprint` among them.
    """

    argument: str
    folder: Path | None
    run_id: str | None
    uri: str | None
    config: dict[str, Any] = field(default_factory=dict)
    choices: dict[str, str] = field(default_factory=dict)
    name: str = ""
    tags: dict[str, str] = field(default_factory=dict)
    _fetched: "TemporaryDirectory[str] | None" = field(default=None, repr=False)

    @property
    def place(self) -> str:
        """Where it is, for people."""
        return display_path(self.folder) if self.folder else f"run {self.run_id} in {strip_credentials(self.uri or '')}"

    @property
    def label(self) -> str:
        """The name of its folder without the date; of a job of a sweep, whose folder is a number, its name."""
        folder = self.folder or Path(self.tags.get(FOLDER_TAG, self.name))
        name = self.name if folder.name.isdecimal() else folder.name
        return re.sub(r"[^A-Za-z0-9._-]+", "-", re.sub(r"^\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d_", "", name))

    def file(self, name: str) -> Path | None:
        """A file that the run left, by its path in the folder: `samples.json`, `checkpoints/best.pt`.

        Out of MLflow it is fetched into a temporary folder, which lives as long as this object.

        Returns:
            None if there is no such file.

        Raises:
            ConfigError: the store does not answer.
        """
        if self.folder is not None:
            path = self.folder / name
            return path if path.is_file() else None
        client = self.client()
        parent = name.rpartition("/")[0]
        try:
            if name not in {found.path for found in client.list_artifacts(self._id, parent or None)}:
                return None
            return Path(client.download_artifacts(self._id, name, self.scratch()))
        except Exception as error:  # an artifact store answers with exceptions of its own
            raise ConfigError(f"{self.argument}: {name} cannot be fetched from MLflow: {explain(error)}") from error

    def client(self) -> "MlflowClient":
        """The MLflow store that has the run.

        Raises:
            ConfigError: it is in none, or the store is unusable.
        """
        if self.run_id is None or self.uri is None:
            raise ConfigError(f"{self.argument} is not in MLflow: deliver it by python -m runner.sync run=<its folder>")
        return _connect(self.uri, self.argument)

    def scratch(self) -> str:
        """A temporary folder for what is fetched, as long as this object lives."""
        if self._fetched is None:
            self._fetched = TemporaryDirectory(prefix="runner-")
        return self._fetched.name

    @property
    def _id(self) -> str:
        assert self.run_id is not None
        return self.run_id


def find(value: str, key: str = "run", uri: str | None = None, from_store: bool = False) -> SavedRun:
    """Find a run, with its config.

    Args:
        value: its folder or its MLflow id.
        key: the option that names it, for errors.
        uri: of the MLflow store; None is the run's own, or for an id see `store_of`.
        from_store: leave its folder alone even if it is here.

    Raises:
        ConfigError: there is none, or it has no readable config.
    """
    given = f"{key}={value}"
    folder = _folder(value, key)
    if folder is None:
        return _from_mlflow(value, given, uri or store_of(value), from_store)
    saved = _from_folder(folder, given, uri)
    if not from_store:
        return saved
    if saved.run_id is None or saved.uri is None:
        raise ConfigError(f"{given} is not in MLflow: deliver it by python -m runner.sync run={display_path(folder)}")
    return _from_mlflow(saved.run_id, given, saved.uri, from_store)


def _folder(value: str, key: str) -> Path | None:
    """The run's folder if the value is a path; None if it is an MLflow id.

    Raises:
        ConfigError: it is neither.
    """
    if not value.strip():
        raise ConfigError(f"{key}= is empty: {WANTED}")
    folder = parse_path(value, key)
    if folder.is_dir():
        if (folder / layout.CONFIG).is_file():
            return folder.resolve()
        raise ConfigError(f"{key}={value} is no run's folder: there is no config.yaml in it; {_nearest(folder)}")
    if folder.exists():
        raise ConfigError(f"{key}={value} is a file: name the run's folder; {_nearest(folder)}")
    if not re.fullmatch("[0-9a-f]{32}", value):
        raise ConfigError(f"{key}={value}: there is no such folder; {_nearest(folder)}")
    return None


def _nearest(folder: Path) -> str:
    """Which run may have been meant."""
    for parent in list(folder.absolute().parents)[:2]:
        if (parent / layout.CONFIG).is_file() and (parent / layout.CHECKPOINTS).is_dir():
            return f"did you mean {display_path(parent)}?"
    runs = outputs() / "runs"
    names = sorted(run.name for run in runs.iterdir()) if runs.is_dir() else []
    if not names:
        return WANTED
    if close := get_close_matches(folder.name, names, n=1):
        return f"did you mean {display_path(runs / close[0])}?"
    return f"the last runs are {', '.join(display_path(runs / name) for name in names[-3:])}"


def _from_folder(folder: Path, given: str, uri: str | None = None) -> SavedRun:
    saved = SavedRun(given, folder, None, uri, read_config(folder / layout.CONFIG, given), name=folder.name)
    if manifest := manifest_of(folder):
        saved.uri = uri or store_variable.add_credentials(manifest.uri)
        saved.run_id = DeliveryState.load(folder).run_id or read_result(folder).get("run_id")
        saved.name, saved.tags = manifest.run_name, dict(manifest.tags)
        saved.choices = choices_of(manifest.params)
    return saved


def _from_mlflow(run_id: str, given: str, uri: str, from_store: bool) -> SavedRun:
    """The run that MLflow knows: its folder, if that is here and still this run's, else its artifacts."""
    run = get_logged_run(run_id, given, uri)
    tags = dict(run.data.tags)
    if KEY_TAG not in tags:
        raise ConfigError(f"{given} was not made by runner: it has no tag {KEY_TAG}; name one that was")
    folder = None if from_store else own_folder(tags)
    if folder is not None:
        saved = _from_folder(folder, given, uri)
        saved.run_id = run_id
        return saved
    name = run.info.run_name or run_id
    saved = SavedRun(given, None, run_id, uri, {}, choices_of(run.data.params), name, tags)
    config = saved.file(layout.CONFIG)
    if config is None:
        raise ConfigError(
            f"{given}: MLflow has no config.yaml of it yet; python -m runner.sync run={tags.get(FOLDER_TAG)}"
            " delivers it, where that folder is"
        )
    saved.config = read_config(config, given)
    return saved


def store_of(run_id: str) -> str:
    """The store to look an id up in: that of the outputs folder, else that of MLFLOW_TRACKING_URI."""
    own, other = local_uri(outputs()), store_variable.store_address()
    if other is None:
        return own
    file = sqlite_file(own)
    if file is not None and file.exists():
        with suppress(Exception):  # not this one, or not to be opened
            connect(own).get_run(run_id)
            return own
    return other


def get_logged_run(run_id: str, given: str, uri: str) -> "Run":
    """What MLflow says of a run.

    Args:
        run_id: its id.
        given: the option that named it, as typed.
        uri: of the store.

    Raises:
        ConfigError: there is no such run, or no such store.
    """
    file = sqlite_file(uri)
    if file is not None and not file.exists():
        raise ConfigError(f"{given}: there is no MLflow store {file}; write the run's folder, or tracking.uri=...")
    client = _connect(uri, given)
    try:
        return client.get_run(run_id)
    except Exception as error:  # MLflow's own, or those of the libraries below it
        what = "cannot be looked up" if describe_refusal(error) else "was not found"
        raise ConfigError(f"{given} {what} in {strip_credentials(uri)}: {explain(error)}") from error


def _connect(uri: str, given: str) -> "MlflowClient":
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    try:
        return connect(uri)
    except StoreError as error:
        raise ConfigError(f"{given}: {error}") from error
    except Exception as error:
        raise ConfigError(f"{given}: {strip_credentials(uri)} cannot be opened: {explain(error)}") from error


def choices_of(params: Mapping[str, str]) -> dict[str, str]:
    """Which member of each group was chosen, out of a run's parameters."""
    return {group: params[group] for group in GROUPS if group in params}


def read_config(path: Path, given: str) -> dict[str, Any]:
    """The config that a run has saved.

    Args:
        path: of its `config.yaml`.
        given: the option that named the run, as typed.

    Raises:
        ConfigError: the file is not a run's.
    """
    try:
        saved = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise ConfigError(f"{given}: its config.yaml cannot be read: {str(error).splitlines()[0]}") from error
    if not isinstance(saved, dict) or "defaults" in saved or not {"seed", "model", "trainer"} <= saved.keys():
        raise ConfigError(f"{given} is no run's folder: its config.yaml is another program's; {_nearest(path.parent)}")
    needed = [group for group in GROUPS if group not in PRESETS]
    if damaged := [group for group in needed if not isinstance(saved.get(group), dict)]:
        raise ConfigError(f"{given}: its config.yaml is damaged: {', '.join(damaged)} should have keys below")
    return saved


def read_result(folder: Path) -> dict[str, Any]:
    """What a run's `result.json` holds; nothing if it was killed before there was one."""
    return load_json_or_empty(folder / layout.RESULT)
