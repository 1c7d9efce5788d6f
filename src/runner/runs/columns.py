"""What `Task.predict` returned, as named tensors, and as the columns of a table."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from runner.errors import ConfigError, Problem, first_line, user_frame_suffix
from runner.loss import answer_names, answers
from runner.task import Task
from runner.task.supervised import Supervised, by_name
from runner.util import trees

MOST_COLUMNS = 1000
"""Columns of a table; larger predictions, such as masks, are written as arrays."""

VALUE = "value"
"""The name of a prediction that is a single tensor."""


def answers_classes(task: Task) -> bool:
    """Whether predictions are those of `supervised`: outputs (N, K), of whose meaning its loss decides."""
    return isinstance(task, Supervised) and type(task).predict is Supervised.predict


def named_predictions(result: Any, samples: int) -> dict[str, Tensor]:
    """Return what a task predicted by name, on the CPU.

    Args:
        result: of `Task.predict`.
        samples: the number of samples.

    Raises:
        ConfigError: it is neither a tensor (N, ...) nor several of them in a dict or tuple.
    """
    mapping = by_name(result)
    named = trees.named_leaves(mapping or result)
    wrong = next((name for name, leaf in named if not _fits(leaf, samples)), None)
    if wrong is not None or not named:
        leaf = dict(named).get(wrong or "")
        shape = f" of shape {tuple(leaf.shape)}" if isinstance(leaf, Tensor) else ""
        kind = f"{wrong} as " if wrong else ""
        text = f"task: predict returns {kind}a {type(leaf if named else result).__name__}{shape} for {samples} samples"
        raise ConfigError(Problem("task", text, "return a tensor (N, ...), or several in a dict", topic="code"))
    return {name or VALUE: leaf.detach().cpu() for name, leaf in named}


def _fits(leaf: Any, samples: int) -> bool:
    return isinstance(leaf, Tensor) and leaf.ndim > 0 and len(leaf) == samples


def failure(error: Exception) -> ConfigError:
    """Return the problem of a task whose `predict` raised an error for samples of the right shapes."""
    text = f"task: predict fails for these samples: {first_line(error)}{user_frame_suffix(error)}"
    return ConfigError(Problem("task", text, topic="code"))


def header_of(named: Mapping[str, Tensor]) -> list[str]:
    """Return the names of the columns of predictions: `value`, or `value_0`, `value_1`, ..., for all values."""
    names = []
    for name, values in named.items():
        count = values[0].numel() if len(values) else 0
        names += [name] if values.ndim == 1 else [f"{name}_{number}" for number in range(count)]
    return names


def width_of(named: Mapping[str, Tensor]) -> int:
    """Return the number of columns of predictions."""
    return sum(torch.Size(values.shape[1:]).numel() for values in named.values())


def rows_of(named: Mapping[str, Tensor]) -> Iterator[list[object]]:
    """Yield the values of each sample, in the order of `header_of`."""
    arrays = [values.flatten(1) if values.ndim > 1 else values[:, None] for values in named.values()]
    plain = [printable(array).numpy() for array in arrays]
    return ([str(value) for array in row for value in array] for row in zip(*plain, strict=True))


def printable(values: Tensor) -> Tensor:
    """Return values that NumPy has a type for: it has no bfloat16."""
    return values.float() if values.dtype == torch.bfloat16 else values


def classes_table(
    task: Supervised, outputs: Tensor, classes: Sequence[str] | None, targets: Sequence[str] = ()
) -> tuple[list[str], Iterator[list[object]]]:
    """Convert outputs (N, K) to columns: the class and all probabilities, or the values.

    Returns:
        The names of the columns, and the rows.
    """
    loss = task.loss
    header = answer_names(loss, outputs.shape[1], classes, targets)
    columns = answers(loss, outputs)
    rows: Iterator[list[object]] = ([*map(str, values)] for values in columns.numpy())
    if loss.probabilities(outputs) is None:
        return header, rows
    names = classes or [str(number) for number in range(columns.shape[1])]
    best = columns.argmax(dim=1).tolist()
    return ["class", *header], ([names[number], *row] for number, row in zip(best, rows, strict=True))
