"""What a data set is to runner: up to three parts, each of tensors or a map-style data set."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeGuard

from torch import Tensor

from runner.data.table_layout import Reading
from runner.util.trees import Tree

Samples = Tree
"""Tensors whose first axis is the samples: (inputs, targets), a dict, any other tree but a list; or a map-style data
set, a list too, whose items are (input, target), dicts or any other tree of numbers, arrays and tensors."""


@dataclass(frozen=True)
class Source:
    """A data set as its function (`_target_` in `conf/data/<name>.yaml`) returns it.

    Inputs are uint8 images (N, C, H, W) or (N, H, W) with values 0-255, which are scaled to [0, 1], or features
    of any shape (N, ...): of sequences (N, steps, features). Targets are integer class labels (N,) or float values
    (N,) or (N, K). The loss decides whether integers are classes or numbers. Where there are several inputs, in a dict
    or a tuple, images of bytes are scaled to [0, 1], floats are cast, and whole numbers stay; nothing is normalised.
    Which part of an item is its targets is for the task to say; by default, it is the second of two.

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
        target: the column that is predicted; a list of several.
        val: the validation part; None if the data set has none.
        scale: divides the inputs, if the data set knows its range; None leaves it to `data.scale`.
        white: the number that stands for white in image files with more than 8 bits a pixel.
        reading: how the table was read; None if as runner 0.1.0 did, or without a table.
        notes: short phrases about what was guessed from the data, for the user to check.
        collate_fn: makes a batch of a list of items, of different lengths for example; None takes the attribute
            `collate_fn` of the map-style data set, if it has one, or stacks the items.
        arrays: a value for each sample of the training part by name, for `data.split_by` and `data.sample_weight`: the
            columns of a table, or what a model does not get.
        divided_by: what the original pixels were divided by to be the inputs, if anything; for messages.
        places: the place of each sample among the rows of its file, int64 (N,), by part: `train`, `val`, `test`; None
            without a table.
        rows: makes inputs of the rows of a table, once its transformers are fitted to the training samples.
        features: the names of the numbers of a sample, in their order, where there are no `columns`: new tables are
            read by them, and by `reading`; None if they have no names.
    """

    name: str
    train: Samples
    test: Samples | None = None
    mean: float | list[float] | None = 0.0
    std: float | list[float] | None = 1.0
    classes: list[str] | None = None
    origin: str = ""
    columns: list[str] | None = None
    target: str | list[str] | None = None
    notes: Sequence[str] = ()
    val: Samples | None = None
    scale: float | None = None
    white: float | None = None
    reading: Reading | None = None
    collate_fn: Callable[[list[Any]], Tree] | None = None
    rows: "Rows | None" = None
    arrays: Mapping[str, Any] | None = None
    places: Mapping[str, Tensor] | None = None
    divided_by: float | None = None
    features: Sequence[str] | None = None


def names_of(target: str | Sequence[str] | None) -> list[str]:
    """Return the names of the columns that are predicted."""
    return [target] if isinstance(target, str) else list(target or [])


class Rows(Protocol):
    """The rows of a table before their transformers are fitted."""

    def fit(self, rows: Tensor) -> "FittedRows":
        """Fit the transformers to the rows of the training part."""


class FittedRows(Protocol):
    """The rows of a table with fitted transformers."""

    @property
    def example(self) -> dict[str, list[Any]]:
        """Two rows of the table, by column."""

    @property
    def sizes(self) -> list[int]:
        """The number of codes of each category column; none if the inputs are one vector a row."""

    def inputs(self, rows: Tensor) -> Tree:
        """Return the inputs of rows as a model takes them."""

    def state(self) -> dict[str, Any]:
        """Return what reads new tables for the same model, as JSON."""


class Stateful(Protocol):
    """A data set with a state that changes while it is read."""

    def state_dict(self) -> dict[str, Any]:
        """Return the state."""

    def load_state_dict(self, state: dict[str, Any]) -> object:
        """Restore what `state_dict` returned."""


def saves_itself(data_set: object) -> TypeGuard[Stateful]:
    """Whether a data set can save and restore its state."""
    return all(callable(getattr(data_set, name, None)) for name in ("state_dict", "load_state_dict"))
