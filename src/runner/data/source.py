"""What a data set is to runner: up to three parts, each tensors or a map-style data set."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeGuard

from torch import Tensor
from torch.utils.data import Dataset

from runner.data.table_layout import Reading

Samples = tuple[Tensor, Tensor] | Dataset
"""(inputs, targets), whose first axis is the samples; or a map-style `Dataset` whose items are (input, target)."""


@dataclass(frozen=True)
class Source:
    """A data set as its function (`_target_` in `conf/data/<name>.yaml`) returns it.

    Inputs are uint8 images (N, C, H, W) or (N, H, W) with values 0-255, which are scaled to [0, 1], or features
    of any shape (N, ...): of sequences (N, steps, features). Targets are integer class labels (N,) or float values
    (N,) or (N, K). The loss decides whether integers are classes or numbers.

    Attributes:
        name: in reports and in MLflow.
        train: the training part; validation samples are split off it if there is no `val`.
        test: the test part, which is never trained on; None if there is none.
        mean: subtracted from the (scaled) inputs, by channel or feature; None computes it from the
            training samples.
        std: divides the inputs afterwards; None computes it from the training samples.
        classes: the names of the classes 0, 1, ...; None if the targets count them, from 0 and without gaps.
        origin: where the samples come from: a path, a package.
        columns: all columns of the table that the samples come from, in its order; None without a table.
        target: the column that is predicted.
        val: the validation part; None if the data set has none.
        scale: divides the inputs, if the data set knows its range; None leaves it to `data.scale`.
        white: the number that stands for white in image files with more than 8 bits a pixel.
        reading: how the table was read; None if as runner 0.1.0 did, or without a table.
        notes: short phrases about what was guessed from the data, for the user to check.
    """

    name: str
    train: Samples
    test: Samples | None = None
    mean: float | list[float] | None = 0.0
    std: float | list[float] | None = 1.0
    classes: list[str] | None = None
    origin: str = ""
    columns: list[str] | None = None
    target: str | None = None
    notes: Sequence[str] = ()
    val: Samples | None = None
    scale: float | None = None
    white: float | None = None
    reading: Reading | None = None


class Stateful(Protocol):
    """A data set with a state that changes while it is read."""

    def state_dict(self) -> dict[str, Any]:
        """Return the state."""

    def load_state_dict(self, state: dict[str, Any]) -> object:
        """Restore what `state_dict` returned."""


def saves_itself(data_set: object) -> TypeGuard[Stateful]:
    """Whether a data set can save and restore its state."""
    return all(callable(getattr(data_set, name, None)) for name in ("state_dict", "load_state_dict"))
