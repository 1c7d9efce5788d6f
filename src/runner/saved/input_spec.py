"""`samples.json`: the inputs and outputs of a run's model. With it the model can be used without its training data."""

from dataclasses import dataclass, field
from typing import Any

import torch

from runner.data import scaling
from runner.data.image_file import RANGES
from runner.data.normalize import Normalize
from runner.data.table_layout import Reading
from runner.errors import ConfigError
from runner.rundir import layout
from runner.saved.run import SavedRun
from runner.util.files import load_json


@dataclass(frozen=True)
class InputSpec:
    """The samples of a run.

    Attributes:
        data: the data set's name.
        input_shape: the shape of one sample, without the batch axis.
        dtype: the type of the raw inputs: `uint8` for images, else `float32`, or `float64` if float32 would round
            them.
        mean: subtracted from the (scaled) inputs: a number, or nested lists that broadcast to a sample.
        std: the divisor after that.
        num_outputs: the model's number of outputs; None if task and data do not tell.
        classes: the names of the classes 0, 1, ...; None if they have no names.
        columns: all columns of the table, in order; None if the samples are not a table.
        target: the column that is predicted.
        table: columns and fitted transformers of `data=table`.
        reading: how the table was read; None for a table that runner 0.1.0 read, and without a table.
        value_range: the smallest and the largest raw value of the training images if they are float32; None for
            others, and if it was not recorded.
        scale: the divisor of uint8 inputs, before `mean`.
        white: the value of white in the run's image files if they had more than 8 bits per pixel.
    """

    data: str
    input_shape: list[int]
    dtype: str
    mean: Any
    std: Any
    num_outputs: int | None
    classes: list[str] | None = None
    columns: list[str] | None = field(default=None)
    target: str | None = None
    value_range: list[float] | None = None
    scale: float = scaling.BYTE
    white: float | None = None
    reading: Reading | None = None
    table: dict[str, Any] | None = None

    @property
    def features(self) -> list[str] | None:
        """The input columns."""
        return None if self.columns is None else [name for name in self.columns if name != self.target]

    @property
    def images(self) -> bool:
        """Whether a sample is an image (C, H, W)."""
        return len(self.input_shape) == 3

    @property
    def normalize(self) -> Normalize:
        """The normalization from raw inputs to model inputs, with exactly the numbers of the run."""
        mean, std = (torch.tensor(value, dtype=torch.float64) for value in (self.mean, self.std))
        return Normalize(mean, std, self.scale, wide=self.dtype == "float64")


def read_input_spec(run: SavedRun) -> InputSpec:
    """Read the input specification of a run.

    Raises:
        ConfigError: `samples.json` is missing or damaged.
    """
    path = run.file(layout.SAMPLES)
    if path is None:
        text = f"its {layout.SAMPLES} is missing, which describes the inputs of its model"
        raise ConfigError(run.problem(text, "train it again", topic="file"))
    try:
        content = load_json(path)
        if "white" not in content and content.get("data") == "image_folder":  # of version 0.1.0
            content["white"] = RANGES[-1]
        return InputSpec(**content)
    except (OSError, ValueError, TypeError) as error:
        raise ConfigError(run.problem(f"its {layout.SAMPLES} is damaged: {error}", topic="file")) from error
