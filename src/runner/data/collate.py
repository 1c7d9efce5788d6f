"""From the items of a map-style data set to a batch, leaf by leaf, and the parts of an item that a model gets."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import default_collate

from runner.errors import TrainingError, is_out_of_memory
from runner.util import trees
from runner.util.trees import Tree

Batch = tuple[Tree, Tree]
"""Inputs and targets; None in place of the targets means that the task takes the inputs as a whole item."""

Divide = Callable[[Tree], Batch]
"""Divides an item, or a batch of items, into inputs and targets."""

PLAIN = (Tensor, np.ndarray, np.generic, int, float)
"""Types of leaves; a list of numbers, too, is one leaf."""


def divide_pair(item: Tree) -> Batch:
    """Divide a plain tuple or list of two into inputs and targets; all else is one item."""
    if type(item) in (tuple, list) and len(item) == 2:
        return item[0], item[1]
    return item, None


def collate(samples: Sequence[Any]) -> Tree:
    """Stack items of one structure, leaf by leaf: numbers, arrays and tensors become tensors (N, ...).

    The result has the containers of the items, unlike that of `default_collate`, which makes lists of tuples and
    refuses dataclasses. A leaf is stacked by `default_collate`.

    Raises:
        TrainingError: items differ, or are of something else.
    """
    first = samples[0]
    if _is_plain_pair(first):
        try:
            columns = list(zip(*samples, strict=True))
        except (TypeError, ValueError) as error:
            raise TrainingError("items of the data set differ: some are pairs, some are not") from error
        return tuple(_stack(name, column) for name, column in zip(("inputs", "targets"), columns, strict=True))
    if type(first) is list and len(first) == 2:  # a pair, even of two lists of numbers
        samples = [tuple(sample) if type(sample) is list else sample for sample in samples]
        first = samples[0]
    leaves, structure = trees.flatten(first, _is_numbers)
    names = [name for name, _ in trees.named_leaves(trees.unflatten(map(_not_none, leaves), structure))]
    rows = [leaves]
    for sample in samples[1:]:
        leaves, other = trees.flatten(sample, _is_numbers)
        if other != structure:
            raise TrainingError(f"items of the data set differ: {_describe(first)}, and {_describe(sample)}")
        rows.append(leaves)
    stacked = [_stack(name, column) for name, column in zip(names, zip(*rows, strict=True), strict=True)]
    return trees.unflatten(stacked, structure)


def to_tensors(tree: Tree) -> Tree:
    """Return what a data set has for one sample with tensors as its leaves; a single number or array stays one.

    Raises:
        TrainingError: a leaf is neither a number nor an array nor a tensor.
    """
    if isinstance(tree, PLAIN) or tree is None:
        return tree
    leaves, structure = trees.flatten(tree, _is_numbers)
    names = [name for name, _ in trees.named_leaves(trees.unflatten(map(_not_none, leaves), structure))]
    return trees.unflatten(map(_to_tensor, names, leaves), structure)


def _is_plain_pair(item: Any) -> bool:
    return type(item) in (tuple, list) and len(item) == 2 and all(isinstance(part, PLAIN) for part in item)


def _is_numbers(value: Any) -> bool:
    """Whether a list holds numbers alone, or lists of them: of tokens, for example."""
    return type(value) is list and (not value or isinstance(value[0], int | float) or _is_numbers(value[0]))


def _not_none(leaf: Any) -> Any:
    return 0 if leaf is None or _is_numbers(leaf) else leaf


def _stack(name: str, column: Sequence[Any]) -> Any:
    """Stack the leaves of one name."""
    if all(leaf is None for leaf in column):
        return None
    column = [_to_tensor(name, leaf) if isinstance(leaf, list) else leaf for leaf in column]
    try:
        stacked = default_collate(column)
        if not isinstance(stacked, Tensor):  # texts stay as they are
            raise TypeError
        return stacked
    except (RuntimeError, TypeError) as error:
        if is_out_of_memory(error):
            raise
        at = f" of `{name}`" if name else ""
        shapes = {tuple(np.shape(leaf)): None for leaf in column if isinstance(leaf, PLAIN)}
        if len(shapes) > 1:
            one, other, *_ = shapes
            text = f"samples{at} differ in shape, {one} and {other}; give the data set a `collate_fn` that pads them"
            raise TrainingError(text) from error
        odd = next((leaf for leaf in column if not isinstance(leaf, PLAIN)), column[0])
        raise TrainingError(_not_a_number(name, odd)) from error


def _to_tensor(name: str, leaf: Any) -> Tensor | None:
    if leaf is None or isinstance(leaf, Tensor):
        return leaf
    try:
        return torch.as_tensor(leaf)
    except (RuntimeError, TypeError, ValueError) as error:
        raise TrainingError(_not_a_number(name, leaf)) from error


def _not_a_number(name: str, leaf: Any) -> str:
    at = f"`{name}` of an item" if name else "an item"
    return f"{at} of the data set is of type {type(leaf).__name__}; return numbers, arrays or tensors alone"


def _describe(item: Any) -> str:
    names = ", ".join(filter(None, (name for name, _ in trees.named_leaves(item))))
    return f"one is of type {type(item).__name__}" + (f" with {names}" if names else "")
