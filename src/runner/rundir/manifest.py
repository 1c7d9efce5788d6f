"""The manifest: what MLflow needs to know about a run. It is written into the run's folder before the upload."""

import socket
import time
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from runner.rundir import journal, layout
from runner.rundir.ownership import is_own_file, is_own_folder, named_folder
from runner.util.files import load_json, load_json_or_empty, write_json
from runner.util.tags import FOLDER_TAG, KEY_TAG, PAUSED
from runner.util.uri import strip_credentials

ENDED, ERROR = "runner.ended", "runner.error"
RESUMED = "resumed."
"""Prefix of the tags with the values that a resume has changed, by parameter."""

ENDINGS = (ENDED, ERROR, PAUSED)
"""Tags with the reason why a run is not finished."""

PAUSE = "PAUSED"
"""The status of a run that pauses, which MLflow does not have."""

NOTE = "mlflow.note.content"
"""The tag that MLflow's pages show as the description of a run, in Markdown."""

FOLDER = layout.TRACKING
NAME = "manifest.json"


@dataclass
class Dataset:
    """The training data of a run, in the terms of MLflow's `Dataset` input.

    Attributes:
        name: the data set's name.
        digest: a fingerprint of contents and split, at most 36 characters.
        origin: its source: a path, a URL or the name of a library.
        profile: sizes, classes and the shape of a sample.
    """

    name: str
    digest: str
    origin: str
    profile: dict[str, Any] = field(default_factory=dict)


@dataclass
class Manifest:
    """The description of a run by its own process; the process that uploads only reads it.

    Attributes:
        uri: the address of the tracking store, without credentials.
        experiment: the experiment's name.
        run_name: the name in the MLflow UI.
        artifact_root: the folder of a database's artifacts (absolute); None leaves the choice to the server.
        params: the resolved config, flattened.
        tags: the run's tags.
        experiment_tags: tags to set at the experiment.
        dataset: the data set, logged as an input in the context "training".
        log_model: whether `model/` becomes the run's logged model.
        log_checkpoints: whether to upload `checkpoints/`.
        register: the name of the registered model that gets the best model as a version; of a sweep, that of its
            best job.
        parent_run_id: the sweep's run if this run is one of its jobs and the sweep's run existed at its start.
        parent_key: the `key` of the sweep's run, to find that run if its id was unknown.
        experiment_id: set by a sweep, which has created the experiment.
        key: finds the run in MLflow after a kill between its creation and the saving of its id.
        start_time: milliseconds since the epoch.
        status: RUNNING, FINISHED, FAILED or KILLED.
        end_time: milliseconds since the epoch, once the run has ended.
        place: where its folder is: see `place_of`. None in those of 0.1.0.
        owner: the word by which the store knows the folder; empty if it was never moved.
        former_owners: the words before.
    """

    uri: str
    experiment: str
    run_name: str
    artifact_root: str | None = None
    params: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    experiment_tags: dict[str, str] = field(default_factory=dict)
    dataset: Dataset | None = None
    log_model: bool = True
    log_checkpoints: bool = False
    register: str | None = None
    parent_run_id: str | None = None
    parent_key: str | None = None
    experiment_id: str | None = None
    key: str = field(default_factory=lambda: uuid.uuid4().hex)
    start_time: int = field(default_factory=lambda: int(time.time() * 1000))
    status: str = "RUNNING"
    end_time: int | None = None
    place: dict[str, Any] | None = None
    owner: str = ""
    former_owners: list[str] = field(default_factory=list)

    def save(self, folder: Path) -> None:
        """Write the manifest into the run's folder, atomically and without credentials."""
        (folder / FOLDER).mkdir(parents=True, exist_ok=True)
        if self.place is None:
            self.place = place_of(folder)
        content = asdict(self) | {"uri": strip_credentials(self.uri)}
        if self.dataset is not None:
            content["dataset"]["origin"] = strip_credentials(self.dataset.origin)
        write_json(folder / FOLDER / NAME, content, private=True)

    @classmethod
    def load(cls, folder: Path) -> "Manifest":
        """Read the manifest from a run's folder.

        Raises:
            FileNotFoundError: the run was not tracked (`tracking=off`).
            ValueError: the file is damaged; the message names it.
        """
        path = folder / FOLDER / NAME
        try:
            content = load_json(path)
            known = {name: content[name] for name in content if name in {field.name for field in fields(cls)}}
            if known.get("dataset") is not None:
                known["dataset"] = Dataset(**known["dataset"])
            return cls(**known)
        except (ValueError, TypeError) as error:
            raise ValueError(f"{path} is damaged: {error}") from error

    def resumed(self, new: "Manifest") -> "Manifest":
        """Return the manifest of the resumed run: the same MLflow run, with changed settings as tags.

        Parameters are immutable in MLflow. A larger `trainer.epochs` of a resume is recorded as the tag
        `resumed.trainer.epochs`. A job's run that its sweep has created has no parameters yet, and gets them.
        The tags about the earlier ending are removed.
        """
        params = self.params or new.params
        changed = {f"{RESUMED}{name}": value for name, value in new.params.items() if params.get(name) != value}
        return replace(
            self,
            uri=new.uri,
            artifact_root=new.artifact_root,
            params=params,
            dataset=self.dataset or new.dataset,
            experiment_tags=self.experiment_tags | new.experiment_tags,
            tags={key: value for key, value in self.tags.items() if key not in ENDINGS} | new.tags | changed,
            log_model=new.log_model,
            log_checkpoints=new.log_checkpoints,
            register=new.register,
            status="RUNNING",
            end_time=None,
        )

    def ended(self, status: str, end_time: int | None = None) -> "Manifest":
        """Return the manifest of the ended run; the end time is in milliseconds and defaults to now.

        A run that pauses is KILLED in MLflow, with a tag.
        """
        end_time = end_time or int(time.time() * 1000)
        if status == PAUSE:
            return replace(self, status="KILLED", end_time=end_time, tags={PAUSED: "true"} | self.tags)
        return replace(self, status=status, end_time=end_time)


def place_of(folder: Path) -> dict[str, Any]:
    """Describe where the folder of a tracked run is: host, path, and the inodes of itself and of its notes."""
    inodes = [folder.stat().st_ino, (folder / FOLDER).stat().st_ino]
    return {"host": socket.gethostname(), "path": str(folder.resolve()), "inodes": inodes}


def has_manifest(folder: Path) -> bool:
    """Whether the run in a folder is tracked; False if the folder was removed."""
    return (folder / FOLDER / NAME).is_file()


def manifest_of(folder: Path) -> Manifest | None:
    """Read the manifest in a folder; None if it is missing or damaged."""
    try:
        return Manifest.load(folder)
    except (OSError, ValueError):
        return None


def is_own_run(folder: Path) -> bool:
    """Whether a folder and its notes for MLflow are this user's own, and none of them is a link."""
    notes = folder / FOLDER
    return is_own_folder(folder) and is_own_folder(notes) and is_own_file(notes / NAME)


def own_folder(tags: Mapping[str, str]) -> Path | None:
    """Find the folder of an MLflow run by its tags, which anyone who may write to the store can set.

    Returns:
        The folder, without links in its path; None if it is missing, belongs to another run now, or is not this
        user's own.
    """
    folder = named_folder(tags.get(FOLDER_TAG, ""))
    if folder is None or not is_own_run(folder):
        return None
    manifest = manifest_of(folder)
    return folder if manifest is not None and manifest.key == tags.get(KEY_TAG) else None


def mark_killed(folder: Path, why: str = "killed without notice") -> None:
    """Record that a run's process has died; the caller must hold the lock of its folder.

    A run that has written its result had ended, so it gets the status of its result.
    """
    manifest = Manifest.load(folder)
    if manifest.status != "RUNNING":
        return
    if (status := load_json_or_empty(folder / layout.RESULT).get("status")) is not None:
        manifest.ended(status).save(folder)
        return
    manifest.tags[ENDED] = why
    manifest.ended("KILLED", _last_sign(folder) or manifest.start_time).save(folder)


def _last_sign(folder: Path) -> int | None:
    """Return the time of a run's last write, in milliseconds since the epoch."""
    last = journal.read_last(folder / layout.JOURNAL)
    log = folder / layout.LOG  # a sweep's folder gets metrics only at its end
    written = [last.time] if last is not None else []
    if (last is None or (folder / layout.SWEEP_PLAN).exists()) and log.exists():
        written.append(log.stat().st_mtime)
    return round(max(written) * 1000) if written else None
