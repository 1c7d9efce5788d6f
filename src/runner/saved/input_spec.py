"""`samples.json`: what a run's model takes and gives, so that it can be used without the data it was trained on."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from runner.data import scaling
from runner.data.image_file import RANGES
from runner.data.normalize import Normalize
from runner.data.table_layout import Reading
from runner.errors import ConfigError
from runner.rundir import layout
from runner.saved.run import SavedRun
from runner.util.files import load_json

if TYPE_CHECKING:
    pass


@dataclass(frozen=True)
class InputSpec:
    """How the samples of a run look.

    Attributes:
        data: the data set's name.
        input_shape: of one sample, without the batch axis.
        dtype: of the raw inputs: `uint8` images, or `float32`, or `float64` where float32 would round them.
        mean: what is subtracted from the (scaled) inputs: a number, or nested lists that broadcast to a sample.
        std: what they are divided by afterwards.
        num_outputs: of the model.
        classes: the names of the classes 0, 1, ...; None if they have none.
        columns: of the table, all of them in their order; None if the samples were no table.
        target: the one of them that is predicted.
        reading: how the table was read; None if as runner 0.1.0 did, or there was none.
        value_range: the smallest and the largest raw value of the training images, where they are float32; None for
            others, and where it was not recorded.
        scale: what uint8 inputs are divided by first.
        white: of the run's image files, where they had more than 8 bits a pixel, the number that stands for white.
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
    value_range: list[float] | None = None
    scale: float = scaling.BYTE
    white: float | None = None
    reading: Reading | None = None

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
        return Normalize(mean, std, self.scale, wide=self.dtype == "float64")


def read_input_spec(run: SavedRun) -> InputSpec:
    """What a run has left of its samples.

    Raises:
        ConfigError: nothing usable.
    """
    path = run.file(layout.SAMPLES)
    if path is None:
        raise ConfigError(
            f"{run.argument}: it has no {layout.SAMPLES}, which describes the inputs of its model: run it again"
        )
    try:
        found = load_json(path)
        if "white" not in found and found.get("data") == "image_folder":  # of version 0.1.0
            found["white"] = RANGES[-1]
        return InputSpec(**found)
    except (OSError, ValueError, TypeError) as error:
        raise ConfigError(f"{run.argument}: its {layout.SAMPLES} is damaged: {error}") from error
