"""What MLflow must be told about a run, written into the run's folder before anyone tells it."""

import time
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from runner.rundir import journal, layout
from runner.util.files import load_json, load_json_or_empty, write_json
from runner.util.tags import FOLDER_TAG, KEY_TAG
from runner.util.uri import strip_credentials

ENDED, ERROR = "runner.ended", "runner.error"
RESUMED = "resumed."
"""Begins the tags that tell what a resume has changed, by parameter."""

ENDINGS = (ENDED, ERROR)
"""Tags that tell why a run has not come to its end."""

NOTE = "mlflow.note.content"
"""Tag that MLflow's pages show as the description of a run, in Markdown."""

FOLDER = ".tracking"
NAME = "manifest.json"


@dataclass
class Dataset:
    """The data a run trained on, as MLflow's `Dataset` input records it.

    Attributes:
        name: the data set's name.
        digest: a fingerprint of contents and split, at most 36 characters.
        origin: where it came from: a path, a URL or a library's name.
        profile: figures about it (sizes, classes, mean and standard deviation).
    """

    name: str
    digest: str
    origin: str
    profile: dict[str, Any] = field(default_factory=dict)


@dataclass
class Manifest:
    """A run as its own process describes it; the deliverer only reads this.

    Attributes:
        uri: the tracking store, without credentials.
        experiment: the experiment's name.
        run_name: the name the MLflow UI shows.
        artifact_root: where a database's artifacts are kept (absolute); None leaves it to the server.
        params: the resolved config, flattened.
        tags: what the run is searched by.
        experiment_tags: set at the experiment.
        dataset: the data set, logged as an input in the context "training".
        log_model: whether `model/` becomes the run's logged model.
        log_checkpoints: whether `checkpoints/` goes along.
        parent_run_id: the sweep's run, if this is one of its jobs and the run was there when it began.
        parent_key: the `key` of the sweep's run, by which it is found where the id was not known.
        experiment_id: set by a sweep, which has made the experiment already.
        key: finds the run in MLflow when a kill came between its creation and remembering its id.
        start_time: milliseconds since the epoch.
        status: RUNNING, FINISHED, FAILED or KILLED.
        end_time: milliseconds since the epoch, once the run has ended.
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
    parent_run_id: str | None = None
    parent_key: str | None = None
    experiment_id: str | None = None
    key: str = field(default_factory=lambda: uuid.uuid4().hex)
    start_time: int = field(default_factory=lambda: int(time.time() * 1000))
    status: str = "RUNNING"
    end_time: int | None = None

    def save(self, folder: Path) -> None:
        """Write it into the run's folder, whole or not at all, and without credentials."""
        content = asdict(self) | {"uri": strip_credentials(self.uri)}
        if self.dataset is not None:
            content["dataset"]["origin"] = strip_credentials(self.dataset.origin)
        write_json(folder / FOLDER / NAME, content)

    @classmethod
    def load(cls, folder: Path) -> "Manifest":
        """Read it back from a run's folder.

        Raises:
            FileNotFoundError: the run was never tracked (`tracking=off`).
            ValueError: the file is damaged; with its name.
        """
        path = folder / FOLDER / NAME
        try:
            content = load_json(path)
            known = {name: content[name] for name in content if name in {f.name for f in fields(cls)}}
            if known.get("dataset") is not None:
                known["dataset"] = Dataset(**known["dataset"])
            return cls(**known)
        except (ValueError, TypeError) as error:
            raise ValueError(f"{path} is damaged: {error}") from error

    def resumed(self, new: "Manifest") -> "Manifest":
        """Go on as the same MLflow run: its identity and parameters stay, a changed setting becomes a tag.

        Parameters are immutable in MLflow, so `trainer.epochs` raised on a resume is recorded as the tag
        `resumed.trainer.epochs`. A job's run that its sweep has announced has no parameters yet, and gets them.
        How it ended before is not how it ends.
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
            status="RUNNING",
            end_time=None,
        )

    def ended(self, status: str, end_time: int | None = None) -> "Manifest":
        """Tell how the run ended; now, unless a time in milliseconds is given."""
        return replace(self, status=status, end_time=end_time or int(time.time() * 1000))


def has_manifest(folder: Path) -> bool:
    """Whether MLflow is to be told of the run in a folder; of one that somebody has taken away, it is not."""
    return (folder / FOLDER / NAME).is_file()


def manifest_of(folder: Path) -> Manifest | None:
    """What the run in a folder has told of itself; None if nothing that can be read."""
    try:
        return Manifest.load(folder)
    except (OSError, ValueError):
        return None


def own_folder(tags: Mapping[str, str]) -> Path | None:
    """The folder of a run that MLflow knows, by its tags; None if it is not here, or another run's by now."""
    folder = Path(tags.get(FOLDER_TAG, ""))
    manifest = manifest_of(folder)
    return folder if manifest is not None and manifest.key == tags.get(KEY_TAG) else None


def mark_killed(folder: Path, why: str = "killed without notice") -> None:
    """Tell the truth about a run whose process is gone without a word; its folder must be claimed.

    A run that has written its result had come to its end, and only its record had not.
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
    """When a run has last written something, in milliseconds since the epoch."""
    points, _ = journal.read(folder / layout.JOURNAL)
    log = folder / layout.LOG  # a sweep's own folder has a metric only once it has ended
    written = [points[-1].time] if points else []
    if (not points or (folder / layout.SWEEP_PLAN).exists()) and log.exists():
        written.append(log.stat().st_mtime)
    return round(max(written) * 1000) if written else None
