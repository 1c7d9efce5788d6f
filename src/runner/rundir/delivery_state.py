"""The state of a run's upload to MLflow, saved beside the manifest by the process that uploads."""

from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

from runner.rundir.manifest import FOLDER
from runner.util.files import load_json_or_empty, write_json

NAME = "delivery.json"


@dataclass
class DeliveryState:
    """What MLflow has of a run. If it is lost, everything is sent again, which costs time only.

    Attributes:
        run_id: the run's id in MLflow.
        experiment_id: the id of its experiment.
        parent_run_id: the id of its parent run.
        lost_run_id: the run of which another copy of the folder is the owner now: nothing of it belongs to this one.
        offset: bytes of the journal that MLflow has; they are on the disk.
        tail: the checksum of the last of these bytes; None if it was not recorded.
        lacks_points: whether the journal may have lost points that MLflow has.
        keys: the legal MLflow name of each metric.
        params: whether MLflow has the parameters.
        dataset: whether MLflow has the data set.
        tags: the tags in MLflow.
        experiment_tags: the experiment's tags in MLflow that this run set.
        artifacts: size and modification time (ns) of files that earlier versions have uploaded; see `UploadedFiles`.
        refused: why the store refuses a file, by name; the next `runner.sync` tries again.
        model_id: the logged model made from the `model/` with this `model_uuid`.
        model_uuid: see `model_id`.
        status: the run's status in MLflow.
        end_time: milliseconds since the epoch.
    """

    run_id: str | None = None
    experiment_id: str | None = None
    parent_run_id: str | None = None
    lost_run_id: str | None = None
    offset: int = 0
    tail: int | None = None
    lacks_points: bool = False
    keys: dict[str, str] = field(default_factory=dict)
    params: bool = False
    dataset: bool = False
    tags: dict[str, str] = field(default_factory=dict)
    experiment_tags: dict[str, str] = field(default_factory=dict)
    artifacts: dict[str, list[int]] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    model_id: str | None = None
    model_uuid: str | None = None
    status: str = "RUNNING"
    end_time: int | None = None

    def save(self, folder: Path) -> None:
        """Write the state into the run's folder."""
        write_json(folder / FOLDER / NAME, asdict(self), private=True)

    @classmethod
    def load(cls, folder: Path) -> "DeliveryState":
        """Read the state from a run's folder; a missing or damaged file is an empty state."""
        content = load_json_or_empty(folder / FOLDER / NAME)
        return cls(**{field.name: content[field.name] for field in fields(cls) if field.name in content})
