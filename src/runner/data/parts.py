"""Make a part of what a `Source` holds: of tensors, or of a map-style data set. Nothing else asks which kind it is."""

from collections.abc import Callable, Mapping
from dataclasses import is_dataclass
from typing import Any

from torch import Tensor
from torch.utils.data import Dataset

from runner.data.collate import Divide, divide_pair
from runner.data.dataset_part import DatasetPart
from runner.data.part import Part
from runner.data.source import Samples
from runner.data.tensor_part import TensorPart
from runner.errors import ConfigError, Problem
from runner.util import trees
from runner.util.trees import Tree


def part_of(
    samples: Samples,
    label: str = "the data",
    divide: Divide = divide_pair,
    collate_fn: Callable[[list[Any]], Tree] | None = None,
    places: Tensor | None = None,
) -> Part:
    """Return the samples of a `Source` as a part.

    Args:
        samples: what the data set's function returned.
        label: names the part in problems.
        divide: divides tensors, or each sample and batch of a data set, into inputs and targets: the task's.
        collate_fn: makes a batch of a list of items; None takes the data set's own, or stacks them.
        places: of tensors among the rows of their file; None if they are not of a table.

    Raises:
        ConfigError: the samples are of neither kind.
    """
    if not _is_tree(samples):
        if not hasattr(samples, "__len__") or not hasattr(samples, "__getitem__"):
            raise _unsuitable(f"{label} is of type {type(samples).__name__}, which has no length or no items")
        return DatasetPart(samples, divide=divide, collate_fn=collate_fn)
    pair = type(samples) is tuple and len(samples) == 2 and all(isinstance(part, Tensor) for part in samples)
    try:
        trees.first_axis(dict(zip(("inputs", "targets"), samples, strict=True)) if pair else samples)
    except trees.UnevenTree as error:
        raise _unsuitable(f"{label}: {error}") from error
    return TensorPart(*divide(samples), places)


def _is_tree(samples: Any) -> bool:
    """Whether samples are tensors rather than a data set; a list is a data set, of its elements."""
    if isinstance(samples, Tensor | tuple | Mapping):
        return True
    return is_dataclass(samples) and not isinstance(samples, Dataset) and not hasattr(samples, "__getitem__")


def _unsuitable(text: str) -> ConfigError:
    instead = (
        "return tensors of the same length, such as (inputs, targets) or a dict of tensors, or a map-style data set"
    )
    return ConfigError(Problem("data", text, instead, topic="code"))
