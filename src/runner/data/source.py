"""What a data set is to runner: up to three parts, each tensors or a map-style data set."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeGuard

from torch import Tensor
from torch.utils.data import Dataset

from runner.data.table_layout import Reading

Part = tuple[Tensor, Tensor] | Dataset
"""(inputs, targets), first axis the samples; or a map-style `Dataset` whose items are (input, target)."""


@dataclass(frozen=True)
class Source:
    """A data set as its function (`_target_` in `conf/data/<name>.yaml`) returns it.

    Inputs are uint8 images (N, C, H, W) or (N, H, W) with values 0-255, which are scaled to [0, 1], or features
    of any shape (N, ...): of sequences (N, steps, features). Targets are integer class labels (N,) or float values
    (N,) or (N, K). Whether integers are classes or numbers is the loss's affair.

    Attributes:
        name: what reports and MLflow call it.
        train: the training part; validation samples are split off it where there is no `val`.
        test: the test part, never trained on; None if there is none.
        mean: subtracted from the (scaled) inputs, by channel or feature; None computes it from the
            training samples.
        std: the inputs are divided by it afterwards; None computes it from the training samples.
        classes: the names of the classes 0, 1, ...; None where the targets count them, from 0 and without gaps.
        origin: where the samples came from: a path, a package.
        columns: of the table that the samples came from, in its order; None if they came from none.
        target: the one of them that is predicted.
        val: the validation part; None if the data set has none of its own.
        scale: what inputs are divided by, where the data set knows it; None leaves it to `data.scale`.
        white: of images that were read from files with more than 8 bits a pixel, the number that stands for white.
        reading: how the table was read; None if as runner 0.1.0 did, or there was none.
        notes: short phrases about what was guessed from the data, for the user to check.
    """

    name: str
    train: Part
    test: Part | None = None
    mean: float | list[float] | None = 0.0
    std: float | list[float] | None = 1.0
    classes: list[str] | None = None
    origin: str = ""
    columns: list[str] | None = None
    target: str | None = None
    notes: Sequence[str] = ()
    val: Part | None = None
    scale: float | None = None
    white: float | None = None
    reading: Reading | None = None


class Stateful(Protocol):
    """A data set with a state of its own."""

    def state_dict(self) -> dict[str, Any]:
        """The state."""

    def load_state_dict(self, state: dict[str, Any]) -> object:
        """Go on with the state of `state_dict`."""


def saves_itself(data_set: object) -> TypeGuard[Stateful]:
    """Whether a data set has a state that it gives and takes."""
    return all(callable(getattr(data_set, name, None)) for name in ("state_dict", "load_state_dict"))
