"""Numbers and targets of a data set of the library `datasets`, as tensors."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from runner.data.held_out import untrained_classes
from runner.errors import ConfigError, Problem

HIDDEN = -1  # the label of test samples whose label is not published, by convention of the hub


def _column(rows: Any, column: str) -> Any:
    """Return a column as an array of Arrow, in the order of the rows."""
    return rows.select_columns([column]).with_format("arrow")[:][column]


def is_hidden(rows: Any, target: str, kind: str) -> bool:
    """Return whether the classes of a part are not published."""
    return kind == "classes" and bool((_column(rows, target).to_numpy() == HIDDEN).all())


def read_numbers(rows: Any, columns: Sequence[str]) -> Tensor:
    """Return columns of numbers as features (N, columns), without rounding any."""
    read = [_column(rows, column).to_numpy() for column in columns]
    read = [values.astype(np.int64) if values.dtype == np.bool_ else values for values in read]
    return torch.from_numpy(np.column_stack(read))


def read_targets(
    parts: Mapping[str, Any], chosen: Mapping[str, str], target: str, kinds: Mapping[str, str]
) -> tuple[dict[str, Tensor], list[str] | None]:
    """Read the targets of all parts.

    Args:
        parts: rows by part.
        chosen: the split of each part.
        target: the column.
        kinds: of all columns.

    Returns:
        Class indices (N,), values (N,) or lists (N, K), by part; and the names of the classes, if they have some.

    Raises:
        ConfigError: a sample has no class, or one that the training part lacks.
    """
    columns = {part: _column(rows, target) for part, rows in parts.items()}
    kind = kinds[target]
    if kind == "text":
        return _index_texts({part: column.to_pylist() for part, column in columns.items()}, chosen)
    if kind == "list":
        return {part: _stack(column.to_pylist(), target) for part, column in columns.items()}, None
    values = {part: np.asarray(column.to_numpy()) for part, column in columns.items()}
    if kind == "classes":
        for part, read in values.items():
            if (hidden := int((read == HIDDEN).sum())) and part in chosen:
                key = f"data.{part}_split"
                text = f"{key}={chosen[part]}: {hidden} rows have no {target} (-1)"
                raise ConfigError(Problem(key, text, f"write {key}=<another>, or none", topic="data"))
        names = list(parts["train"].features[target].names)
    else:
        names = ["false", "true"] if values["train"].dtype == np.bool_ else []
    numbers = {part: read.astype(np.int64) if read.dtype == np.bool_ else read for part, read in values.items()}
    return {part: torch.tensor(read) for part, read in numbers.items()}, names or None


def _index_texts(texts: Mapping[str, Sequence[str]], chosen: Mapping[str, str]) -> tuple[dict[str, Tensor], list[str]]:
    """Number the classes that are texts, in the order of the alphabet."""
    classes = sorted(set(texts["train"]))
    index = {name: number for number, name in enumerate(classes)}
    for part, values in texts.items():
        if unknown := set(values) - set(classes):
            key = f"data.{part}_split"
            raise ConfigError(untrained_classes(key, f"{key}={chosen[part]}", unknown))
    return {part: torch.tensor([index[value] for value in values]) for part, values in texts.items()}, classes


def _stack(rows: Sequence[Sequence[float]], target: str) -> Tensor:
    try:
        return torch.tensor(rows)
    except (TypeError, ValueError) as error:
        text = f"data.target={target}: the lists of the rows differ in length"
        raise ConfigError(
            Problem("data.target", text, "write data.target=<another>, or none", topic="shape")
        ) from error
