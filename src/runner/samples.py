"""`samples.json`: what a run's model takes and gives, so that it can be used without the data it was trained on."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from .data.splits import Normalize
from .errors import ConfigError
from .saved import SavedRun
from .tracking.files import write_json

if TYPE_CHECKING:
    from .build import Experiment

NAME = "samples.json"


@dataclass(frozen=True)
class Samples:
    """How the samples of a run look.

    Attributes:
        data: the data set's name.
        input_shape: of one sample, without the batch axis.
        dtype: of the raw inputs: `uint8` images, values 0-255, or `float32`.
        mean: what is subtracted from the (scaled) inputs: a number, or nested lists that broadcast to a sample.
        std: what they are divided by afterwards.
        num_outputs: of the model.
        classes: the names of the classes 0, 1, ...; None if they have none.
        columns: of the table, all of them in their order; None if the samples were no table.
        target: the one of them that is predicted.
    """

    data: str
    input_shape: list[int]
    dtype: str
    mean: Any
    std: Any
    num_outputs: int
    classes: list[str] | None = None
    columns: list[str] | None = field(default=None)
    target: str | None = None

    @property
    def features(self) -> list[str] | None:
        """The columns that are inputs."""
        return None if self.columns is None else [name for name in self.columns if name != self.target]

    @property
    def images(self) -> bool:
        """Whether a sample is an image (C, H, W)."""
        return len(self.input_shape) == 3

    @property
    def normalize(self) -> Normalize:
        """From raw inputs to what the model sees; the very numbers of the run."""
        mean, std = (torch.tensor(value, dtype=torch.float64) for value in (self.mean, self.std))
        return Normalize(mean, std)


def describe(x: "Experiment") -> Samples:
    """What the samples of an experiment are."""
    splits = x.splits
    inputs = splits.train[0] if isinstance(splits.train, tuple) else torch.as_tensor(splits.train[0][0])
    return Samples(
        data=splits.name,
        input_shape=list(splits.input_shape),
        dtype="uint8" if inputs.dtype == torch.uint8 else "float32",
        mean=splits.normalize.mean.tolist(),
        std=splits.normalize.std.tolist(),
        num_outputs=x.num_outputs,
        classes=list(splits.classes) if splits.classes else None,
        columns=list(splits.columns) if splits.columns else None,
        target=splits.target,
    )


def write(x: "Experiment", folder: Path) -> None:
    """Leave `samples.json` in the run's folder."""
    write_json(folder / NAME, asdict(describe(x)))


def read(run: SavedRun) -> Samples:
    """What a run has left of its samples.

    Raises:
        ConfigError: nothing usable.
    """
    path = run.file(NAME)
    if path is None:
        raise ConfigError(f"{run.given}: there is no {NAME} of it, which tells what its model takes: run it again")
    try:
        return Samples(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise ConfigError(f"{run.given}: its {NAME} is damaged: {error}") from error
