"""What a sweep and the process of a job tell each other; torch is not needed for it."""

from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Task:
    """What a job's process is told.

    Attributes:
        number: of the job.
        folder: its own, which is there.
        config: composed, with Hydra's node, pickled; None goes on with what is in the folder.
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
class Progress:
    """How far a job is.

    Attributes:
        done: epochs, with the share of the one in progress.
        epochs: planned.
        metrics: the newest ones.
    """

    done: float
    epochs: int
    metrics: dict[str, float]
