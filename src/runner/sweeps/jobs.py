"""What the parts of a sweep tell each other of its jobs; torch is not needed for it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from runner.rundir import layout
from runner.util.files import write_json


@dataclass(frozen=True)
class Job:
    """One point.

    Attributes:
        number: from 0; the name of its folder.
        name: what it differs in from the others: `lr=0.1 batch_size=32`.
        point: the value of each axis.
        overrides: all that it is composed from.
    """

    number: int
    name: str
    point: dict[str, str]
    overrides: tuple[str, ...]


@dataclass(frozen=True)
class JobInfo:
    """What is known of a job that could be built.

    Attributes:
        device: the type of the device it will compute on.
        metrics: names of the metrics by which it can be judged.
        monitor: the metric that decides which epoch is its best.
        higher_is_better: those of the metrics that rise as a model gets better.
    """

    device: str
    metrics: list[str]
    monitor: str
    higher_is_better: Sequence[str] = ()


@dataclass(frozen=True)
class JobSpec:
    """What a job's process is told.

    Attributes:
        number: of the job.
        folder: its own, which is there.
        config: composed, with Hydra's node, pickled; None resumes what is in the folder.
        where: the folder to be in.
        environment: what it finds in its environment.
        uri: of the tracking store, with the credentials that are written nowhere.
        config_path: the primary config folder, if it is not runner's own.
        config_dir: the user's folder of group members.
        epochs: planned.
    """

    number: int
    folder: Path
    config: bytes | None
    where: str
    environment: dict[str, str] = field(repr=False)
    uri: str | None = field(repr=False)
    config_path: str | None
    config_dir: str | None
    epochs: int


@dataclass(frozen=True)
class JobProgress:
    """How far a job is.

    Attributes:
        done: epochs, with the share of the one in progress.
        epochs: planned.
        metrics: the newest ones.
    """

    done: float
    epochs: int
    metrics: dict[str, float]


@dataclass(frozen=True)
class JobOutcome:
    """The end of a job.

    Attributes:
        status: FINISHED, FAILED or KILLED.
        why: what kept it from its end; empty if nothing did.
        seconds: from its start to its end.
        wanted: it was the sweep as a whole that was stopped.
    """

    status: str
    why: str
    seconds: float
    wanted: bool = False

    @property
    def pruned(self) -> bool:
        """Whether its search has pruned it, which is not a failure; `why` says when."""
        return self.status == "FINISHED" and bool(self.why)

    def save(self, folder: Path, name: str) -> None:
        """Keep it in the job's folder, with the job's name."""
        write_json(folder / layout.JOB, {"name": name, "status": self.status, "why": self.why, "seconds": self.seconds})
