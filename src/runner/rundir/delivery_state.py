"""What has been delivered so far: the deliverer's own notes, beside the manifest."""

from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

from runner.rundir.manifest import FOLDER
from runner.util.files import load_json_or_empty, write_json

NAME = "delivery.json"


@dataclass
class DeliveryState:
    """How far delivery has come; losing it costs time only, every message may be sent twice.

    Attributes:
        run_id: the run in MLflow.
        experiment_id: the experiment it is in.
        parent_run_id: the run that it belongs to there.
        offset: bytes of the journal that MLflow has.
        keys: the legal MLflow name of each metric.
        params: whether the parameters are there.
        dataset: whether the data set is there.
        tags: the tags as MLflow has them.
        experiment_tags: those of the experiment that are this run's, as MLflow has them.
        artifacts: size and modification time (ns) of each delivered file.
        model_id: the logged model made from the `model/` with this `model_uuid`.
        model_uuid: see `model_id`.
        status: the run's status in MLflow.
        end_time: milliseconds since the epoch.
    """

    run_id: str | None = None
    experiment_id: str | None = None
    parent_run_id: str | None = None
    offset: int = 0
    keys: dict[str, str] = field(default_factory=dict)
    params: bool = False
    dataset: bool = False
    tags: dict[str, str] = field(default_factory=dict)
    experiment_tags: dict[str, str] = field(default_factory=dict)
    artifacts: dict[str, list[int]] = field(default_factory=dict)
    model_id: str | None = None
    model_uuid: str | None = None
    status: str = "RUNNING"
    end_time: int | None = None

    def save(self, folder: Path) -> None:
        """Write it into the run's folder."""
        write_json(folder / FOLDER / NAME, asdict(self))

    @classmethod
    def load(cls, folder: Path) -> "DeliveryState":
        """Read it; where there is none, or a broken one, delivery starts over."""
        content = load_json_or_empty(folder / FOLDER / NAME)
        return cls(**{f.name: content[f.name] for f in fields(cls) if f.name in content})
