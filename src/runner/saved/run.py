"""Find a run by its folder or its MLflow run id, and read its files.

The files are read from the run's folder. If the folder is missing or on another machine, they come from MLflow.
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

from runner import objects
from runner.config import nesting, store_variable
from runner.config.keys import GROUPS, PRESETS
from runner.config.settings import SINGLE, SUPERVISED
from runner.errors import ConfigError, Problem, StoreError, Topic
from runner.rundir import layout
from runner.rundir.delivery_state import DeliveryState
from runner.rundir.folders import display_path, for_shell, outputs, parse_path, shell_path
from runner.rundir.manifest import manifest_of, own_folder
from runner.rundir.ownership import own_folders
from runner.saved.sweep_folder import is_sweep, not_a_run
from runner.tracking.local_files import refuse_links
from runner.tracking.store import connect, local_uri
from runner.tracking.trouble import describe_refusal, explain
from runner.util.files import load_json_or_empty
from runner.util.tags import FOLDER_TAG, KEY_TAG, is_key
from runner.util.uri import sqlite_file, strip_credentials

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

WANTED = "write the folder of a run, or an MLflow run id"
"""The suggestion when no better one exists."""


def problem_with(argument: str, text: str, suggestion: str = "", *, topic: Topic = "run") -> Problem:
    """Describe a problem with the run or the file that an argument names.

    Args:
        argument: as typed, `run=outputs/runs/...`.
        text: what is wrong.
        suggestion: what to do instead.
        topic: the kind of problem.
    """
    return Problem(argument.partition("=")[0], f"{argument}: {text}", suggestion, topic=topic)


@dataclass
class SavedRun:
    """A run, with its config, and access to its files.

    Attributes:
        argument: the option that named the run, as typed: `run=outputs/runs/...`.
        folder: the run's folder; None if it is not on this machine, or must not be read.
        run_id: its id in MLflow; None if MLflow does not have the run.
        uri: the address of the MLflow store that has the run.
        config: the resolved config, without credentials.
        choices: the chosen member of each group, as far as it was recorded.
        name: the run's name in MLflow, or that of its folder.
        tags: its MLflow tags, such as `runner.data_fingerprint`.
        model_id: the logged model whose weights count; None: the best weights now, which a resume may have changed.
    """

    argument: str
    folder: Path | None
    run_id: str | None
    uri: str | None
    config: dict[str, Any] = field(default_factory=dict)
    choices: dict[str, str] = field(default_factory=dict)
    name: str = ""
    tags: dict[str, str] = field(default_factory=dict)
    model_id: str | None = None
    _fetched: "TemporaryDirectory[str] | None" = field(default=None, repr=False)

    @property
    def place(self) -> str:
        """Where the run is, as text for a message."""
        return display_path(self.folder) if self.folder else f"run {self.run_id} in {strip_credentials(self.uri or '')}"

    @property
    def label(self) -> str:
        """The folder's name without its date. For a job of a sweep, whose folder is a number: the run's name."""
        folder = self.folder or Path(self.tags.get(FOLDER_TAG, self.name))
        name = self.name if folder.name.isdecimal() else folder.name
        return re.sub(r"[^A-Za-z0-9._-]+", "-", re.sub(r"^\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d_", "", name))

    def problem(self, text: str, suggestion: str = "", *, topic: Topic = "run") -> Problem:
        """Describe a problem with this run: see `problem_with`."""
        return problem_with(self.argument, text, suggestion, topic=topic)

    def file(self, name: str) -> Path | None:
        """Return the path of one of the run's files.

        A file from MLflow is downloaded into a temporary folder, which exists as long as this object.

        Args:
            name: the path in the run's folder: `samples.json`, `checkpoints/best.pt`.

        Returns:
            The path; None if the run has no such file.

        Raises:
            ConfigError: the store does not answer.
        """
        if self.folder is not None:
            path = self.folder / name
            return path if path.is_file() else None
        client = self.client()
        parent = name.rpartition("/")[0]
        try:
            if name not in {file.path for file in client.list_artifacts(self._id, parent or None)}:
                return None
            refuse_links(client.get_run(self._id).info.artifact_uri, name)
            return Path(client.download_artifacts(self._id, name, self.scratch()))
        except Exception as error:  # each artifact store raises its own exceptions
            text = f"{name} cannot be downloaded from MLflow: {explain(error)}"
            raise ConfigError(self.problem(text, topic="store")) from error

    def client(self) -> "MlflowClient":
        """Connect to the MLflow store that has the run.

        Raises:
            ConfigError: MLflow does not have the run, or the store is unusable.
        """
        if self.run_id is None or self.uri is None:
            raise ConfigError(_not_uploaded(self.argument, self.folder))
        return _connect(self.uri, self.argument)

    def scratch(self) -> str:
        """Return a temporary folder for downloads; it exists as long as this object."""
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
        value: the run's folder or its MLflow run id.
        key: the option that names the run, for errors.
        uri: the MLflow store; None takes that of the run, or that of `store_of` for an id.
        from_store: ignore the run's folder even if it exists.

    Raises:
        ConfigError: the run does not exist, or its config cannot be read.
    """
    argument = f"{key}={value}"
    folder = _folder(value, key)
    if folder is None:
        return _from_mlflow(value, argument, uri or store_of(value), from_store)
    saved = _from_folder(folder, argument, uri)
    if not from_store:
        return saved
    if saved.run_id is None or saved.uri is None:
        raise ConfigError(_not_uploaded(argument, folder))
    return _from_mlflow(saved.run_id, argument, saved.uri, from_store)


def _not_uploaded(argument: str, folder: Path | None) -> Problem:
    name = shell_path(folder) if folder is not None else "<its folder>"
    return problem_with(
        argument, "MLflow does not have this run", f"upload it with: python -m runner.sync run={name}", topic="store"
    )


def _folder(value: str, key: str) -> Path | None:
    """Return the run's folder if the value is a path; None if it is an MLflow run id.

    Raises:
        ConfigError: it is neither.
    """
    if not value.strip():
        raise ConfigError(Problem(key, f"{key}= is empty", WANTED, topic="missing"))
    folder = parse_path(value, key)
    if folder.is_dir():
        if (folder / layout.CONFIG).is_file():
            return folder.resolve()
        if is_sweep(folder):
            raise ConfigError(not_a_run(folder, key, value))
        text = f"{key}={value} is not a run's folder, it has no {layout.CONFIG}"
        raise ConfigError(Problem(key, text, _nearest(folder, key), topic="run"))
    if folder.exists():
        text = f"{key}={value} is a file, not a run's folder"
        raise ConfigError(Problem(key, text, _nearest(folder, key), topic="run"))
    if not re.fullmatch("[0-9a-f]{32}", value):
        raise ConfigError(
            Problem(key, f"{key}={value}: the folder does not exist", _nearest(folder, key), topic="file")
        )
    return None


def _nearest(folder: Path, key: str) -> str:
    """Suggest the run that may have been meant."""
    for parent in list(folder.absolute().parents)[:2]:
        if (parent / layout.CONFIG).is_file() and (parent / layout.CHECKPOINTS).is_dir():
            return f"did you mean {display_path(parent)}?"
    runs = outputs() / "runs"
    names = [run.name for run in own_folders(runs, layout.CONFIG)]
    if not names:
        return WANTED
    if close := get_close_matches(folder.name, names, n=1):
        return f"did you mean {display_path(runs / close[0])}?"
    latest = [f"{key}={shell_path(runs / name)}" for name in names[:-4:-1]]
    return f"write {' or '.join(latest)}"


def _from_folder(folder: Path, argument: str, uri: str | None = None) -> SavedRun:
    saved = SavedRun(argument, folder, None, uri, read_config(folder / layout.CONFIG, argument), name=folder.name)
    objects.offer(saved.config, saved.file)
    if manifest := manifest_of(folder):
        saved.uri = uri or store_variable.add_credentials(manifest.uri)
        saved.run_id = DeliveryState.load(folder).run_id or read_result(folder).get("run_id")
        saved.name, saved.tags = manifest.run_name, dict(manifest.tags)
        saved.choices = choices_of(manifest.params)
    return saved


def _from_mlflow(run_id: str, argument: str, uri: str, from_store: bool) -> SavedRun:
    """Find a run in MLflow. Its folder is read if it is still this run's, its artifacts otherwise."""
    run = get_logged_run(run_id, argument, uri)
    tags = dict(run.data.tags)
    if not is_key(tags.get(KEY_TAG, "")):
        raise ConfigError(
            problem_with(argument, f"not a run of runner, it has no tag {KEY_TAG}", "write the id of another run")
        )
    own = own_folder(tags)
    if own is not None and is_sweep(own):
        raise ConfigError(not_a_run(own, *argument.split("=", 1)))
    folder = None if from_store else own
    if folder is not None:
        saved = _from_folder(folder, argument, uri)
        saved.run_id = run_id
        return saved
    name = run.info.run_name or run_id
    saved = SavedRun(argument, None, run_id, uri, {}, choices_of(run.data.params), name, tags)
    config = saved.file(layout.CONFIG)
    if config is None:
        sync = f"python -m runner.sync run={for_shell(tags.get(FOLDER_TAG, '<its folder>'))}"
        text = f"MLflow does not have its {layout.CONFIG} yet"
        raise ConfigError(saved.problem(text, f"upload it on the machine that has the folder: {sync}", topic="store"))
    saved.config = read_config(config, argument)
    objects.offer(saved.config, saved.file)
    return saved


def store_of(run_id: str) -> str:
    """Return the store that has a run id: that of the outputs folder, else that of MLFLOW_TRACKING_URI."""
    own, other = local_uri(outputs()), store_variable.store_address()
    if other is None:
        return own
    file = sqlite_file(own)
    if file is not None and file.exists():
        with suppress(Exception):  # this store does not have it, or cannot be opened
            connect(own).get_run(run_id)
            return own
    return other


def get_logged_run(run_id: str, argument: str, uri: str) -> "Run":
    """Get a run from MLflow.

    Args:
        run_id: its id.
        argument: the option that named it, as typed.
        uri: the address of the store.

    Raises:
        ConfigError: the run or the store does not exist.
    """
    file = sqlite_file(uri)
    if file is not None and not file.exists():
        suggestion = "write the folder of the run, or tracking.uri=<the address of its store>"
        raise ConfigError(problem_with(argument, f"the MLflow store {file} does not exist", suggestion, topic="store"))
    client = _connect(uri, argument)
    try:
        return client.get_run(run_id)
    except Exception as error:  # MLflow's own exceptions, or those of the libraries it uses
        action = "cannot be looked up" if describe_refusal(error) else "not found"
        text = f"{action} in {strip_credentials(uri)}: {explain(error)}"
        raise ConfigError(problem_with(argument, text, topic="store")) from error


def _connect(uri: str, argument: str) -> "MlflowClient":
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    try:
        return connect(uri)
    except StoreError as error:
        raise ConfigError(problem_with(argument, str(error), topic="store")) from error
    except Exception as error:
        text = f"{strip_credentials(uri)} cannot be opened: {explain(error)}"
        raise ConfigError(problem_with(argument, text, topic="store")) from error


def choices_of(params: Mapping[str, str]) -> dict[str, str]:
    """Read the chosen member of each group from a run's parameters."""
    return {group: params[group] for group in GROUPS if group in params}


def read_config(path: Path, argument: str) -> dict[str, Any]:
    """Read the config that a run saved.

    Args:
        path: its `config.yaml`.
        argument: the option that named the run, as typed.

    Raises:
        ConfigError: the file cannot be read, or is not a run's config.
    """
    try:
        saved = nesting.load_saved(path)
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        text = f"its {layout.CONFIG} cannot be read: {str(error).splitlines()[0]}"
        raise ConfigError(problem_with(argument, text, topic="file")) from error
    if not isinstance(saved, dict):
        held = "nothing" if saved is None else "a list" if isinstance(saved, list) else "a single value"
        text = f"its {layout.CONFIG} is damaged: it holds {held}, not keys"
        raise ConfigError(problem_with(argument, text, topic="file"))
    if "defaults" in saved or not {"seed", "model", "trainer"} <= saved.keys():
        text = f"not a run's folder, its {layout.CONFIG} belongs to another program"
        raise ConfigError(problem_with(argument, text, _nearest(path.parent, argument.partition("=")[0])))
    saved.setdefault("task", dict(SUPERVISED))
    saved.setdefault("strategy", dict(SINGLE))
    needed = [group for group in GROUPS if group not in PRESETS]
    if damaged := [group for group in needed if not isinstance(saved.get(group), dict)]:
        text = f"its {layout.CONFIG} is damaged: {', '.join(damaged)} must have keys below"
        raise ConfigError(problem_with(argument, text, topic="file"))
    return saved


def lacks_artifacts(result: Mapping[str, Any]) -> bool:
    """Whether a run has left out its plots and the model for MLflow, as a better job of its sweep had finished."""
    return result.get("artifacts") == "none"


def read_result(folder: Path) -> dict[str, Any]:
    """Read a run's `result.json`; empty if the run was killed before it was written."""
    return load_json_or_empty(folder / layout.RESULT)
