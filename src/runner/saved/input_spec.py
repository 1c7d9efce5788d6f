"""`samples.json`: the inputs and outputs of a run's model. With it the model can be used without its training data."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from runner.data import scaling
from runner.data.image_file import RANGES
from runner.data.normalize import Normalize
from runner.data.source import names_of
from runner.data.table_layout import Reading
from runner.errors import ConfigError, Problem
from runner.rundir import layout
from runner.saved.run import SavedRun
from runner.saved.structure import as_shapes, rebuild
from runner.util.files import load_json
from runner.util.trees import Shapes, Tree, is_shape


@dataclass(frozen=True)
class Leaf:
    """One of several inputs, or a single one that is not normalised, such as tokens.

    Attributes:
        name: as `trees.named_leaves` names it: `pixels`, `0`, `boxes.1`; empty for a single tensor.
        shape: of one sample.
        dtype: of the raw values, a name of torch's.
        scale: divides images of bytes; None for all others.
        low, high: the smallest and the largest raw value of some training samples; None if they are not finite.
    """

    name: str
    shape: list[int]
    dtype: str
    scale: float | None
    low: float | None
    high: float | None

    @property
    def kind(self) -> torch.dtype:
        """The type of the raw values."""
        kind: torch.dtype = getattr(torch, self.dtype)
        return kind


@dataclass(frozen=True)
class InputSpec:
    """The samples of a run.

    Attributes:
        data: the data set's name.
        input_shape: the shape of one sample, without the batch axis; of several inputs, a dict or tuple of such shapes.
        dtype: the type of the raw inputs: `uint8` for images, else `float32`, or `float64` if float32 would round
            them.
        mean: subtracted from the (scaled) inputs: a number, or nested lists that broadcast to a sample.
        std: the divisor after that.
        num_outputs: the model's number of outputs; None if task and data do not tell.
        classes: the names of the classes 0, 1, ...; None if they have no names.
        columns: all columns of the table, in order, or of `data=huggingface` those of the inputs; None if the samples
            are not a table, or a table of `data=huggingface` whose run did not record them.
        target: the column that is predicted; a list of several.
        table: columns and fitted transformers of `data=table`.
        reading: how the table was read; None for a table that runner 0.1.0 read, and without a table.
        value_range: the smallest and the largest raw value of the training images if they are float32; None for
            others, and if it was not recorded.
        scale: the divisor of uint8 inputs, before `mean`.
        white: the value of white in the run's image files if they had more than 8 bits per pixel.
        inputs: the inputs that a prediction needs, if there are several, or one that is not normalised; None otherwise.
        containers: types of containers that are not plain dicts or tuples: see `structure.containers_of`.
        ignored: further keys of the run's items that a prediction does not need, such as targets.
        ragged: whether samples differ in shape: those of a batch are padded.
        divided_by: what the original pixels were divided by to be raw inputs; None if nothing is known.
    """

    data: str
    input_shape: Shapes
    dtype: str
    mean: Any
    std: Any
    num_outputs: int | None
    classes: list[str] | None = None
    columns: list[str] | None = field(default=None)
    target: str | list[str] | None = None
    value_range: list[float] | None = None
    scale: float = scaling.BYTE
    white: float | None = None
    reading: Reading | None = None
    table: dict[str, Any] | None = None
    inputs: list[Leaf] | None = None
    containers: dict[str, str] = field(default_factory=dict)
    ignored: list[str] = field(default_factory=list)
    ragged: bool = False
    divided_by: float | None = None

    @property
    def shapes(self) -> Shapes:
        """The shapes of a sample, as the model was made for them."""
        return as_shapes(self.input_shape)

    @property
    def single(self) -> bool:
        """Whether a sample is a single tensor."""
        return is_shape(self.input_shape)

    @property
    def values(self) -> int:
        """The number of values in the inputs of one sample."""
        if self.inputs is None:
            return torch.Size(self.input_shape).numel()
        return sum(torch.Size(leaf.shape).numel() for leaf in self.inputs)

    def build(self, tensors: Mapping[str, Tensor]) -> Tree:
        """Put tensors together as the task takes them.

        Args:
            tensors: by the names of the inputs.

        Raises:
            ConfigError: the type of a container cannot be imported.
        """
        try:
            return rebuild(self.shapes, tensors, self.containers, self.ignored)
        except ImportError as error:
            text = f"the items of the run's data set are of a type that is not here: {error}"
            raise ConfigError(Problem("run", text, "start from the folder of its module", topic="code")) from error

    @property
    def features(self) -> list[str] | None:
        """The input columns."""
        return None if self.columns is None else [name for name in self.columns if name not in names_of(self.target)]

    @property
    def categories(self) -> list[int]:
        """The number of codes of each category column of `data=table`, for a model that embeds them; else none."""
        encoder = (self.table or {}).get("encoder", {})
        return [len(texts) + 1 for texts in encoder["categories"]] if encoder.get("codes") else []

    @property
    def images(self) -> bool:
        """Whether a sample is an image (C, H, W)."""
        return self.single and len(self.input_shape) == 3 and self.inputs is None

    @property
    def normalize(self) -> Normalize:
        """The normalization from raw inputs to model inputs, with exactly the numbers of the run."""
        mean, std = (torch.tensor(value, dtype=torch.float64) for value in (self.mean, self.std))
        scales = None if self.inputs is None else tuple(leaf.scale for leaf in self.inputs)
        return Normalize(mean, std, self.scale, wide=self.dtype == "float64", scales=scales)


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
        if content.get("inputs") is not None:
            content["inputs"] = [Leaf(**leaf) for leaf in content["inputs"]]
        return InputSpec(**content)
    except (OSError, ValueError, TypeError) as error:
        raise ConfigError(run.problem(f"its {layout.SAMPLES} is damaged: {error}", topic="file")) from error
