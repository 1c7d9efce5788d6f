"""The column of a table that numbers or names its rows, and is left out."""

from collections.abc import Collection

import numpy as np

from runner.data.columns import Column
from runner.data.named_path import NamedPath
from runner.errors import ConfigError, Problem, did_you_mean

INDEX = "Unnamed: 0"
"""The name of a first column without a name, as in pandas."""
KEY = "data.index"


def names_rows(column: Column) -> str | None:
    """Describe a column that identifies rows: `counts` if it is 0, 1, 2, ... or 1, 2, 3, ..., `names` if all differ.

    Numbers with decimals name rows only if they are evenly spaced, as points in time are; others are measurements.

    Returns:
        `counts`, `names`, or None for other columns.
    """
    import pyarrow.compute as compute

    values = column.values
    if counts_rows(column):
        return "counts"
    if column.missing or column.kind == "yes_no":
        return None
    if values is not None:
        if not np.isfinite(values).all():
            return None
        if (values % 1 != 0).any() and not _is_evenly_spaced(values):
            return None
    return "names" if compute.count_distinct(column.text).as_py() == len(column.text) else None


def counts_rows(column: Column) -> bool:
    """Whether a column is 0, 1, 2, ... or 1, 2, 3, ...."""
    values = column.values
    if column.kind != "number" or values is None or not len(values) or values[0] not in (0, 1):
        return False
    return np.array_equal(values, np.arange(len(values)) + values[0])


def _is_evenly_spaced(values: np.ndarray) -> bool:
    """Whether numbers rise by the same step, up to rounding."""
    steps = np.diff(values)
    return len(steps) > 1 and bool(steps.min() > 0 and steps.max() - steps.min() < 0.1 * steps.mean())


def find_index(
    names: list[str], columns: list[Column], rows: int, index: str, has_header: bool, file: NamedPath
) -> tuple[int | None, str]:
    """Find the column to leave out.

    Args:
        names: of the columns.
        columns: all of them.
        rows: how many are below the header.
        index: `data.index`.
        has_header: whether the first row has names.
        file: the table.

    Returns:
        Its position, or None, and a note, which may be empty.

    Raises:
        ConfigError: `index` is not a column, or the first column may be an index or a feature.
    """
    if index not in ("auto", "none"):
        name = find_name(index, names)
        if name is None:
            text = f"{KEY}={index} is not a column of {file.value}"
            raise ConfigError(Problem(KEY, text, did_you_mean(index, names), topic="unknown"))
        return names.index(name), f"column {name} is left out"
    if index == "none" or rows == 0:
        return None, ""
    if names[0] == INDEX:
        how = names_rows(columns[0])
        if how is None:
            text = f"{file}: column 1 has no name, and does not number or name the rows"
            suggestion = f"write {KEY}='{INDEX}', or {KEY}=none to train on it"
            raise ConfigError(Problem(KEY, text, suggestion, topic="data"))
        return 0, f"column 1 without a name {how} the rows: left out"
    counts = rows > 2 and counts_rows(columns[0])
    if counts and has_header:
        return None, f"column {names[0]} counts the rows and is a feature ({KEY}={names[0]} leaves it out)"
    if counts:
        text = f"{file}: there is no header, and column 1 counts the rows"
        raise ConfigError(Problem(KEY, text, f"write {KEY}=0, or {KEY}=none to train on it", topic="data"))
    return None, ""


def find_name(name: str, names: Collection[str]) -> str | None:
    """Find the column of this name, or the only one whose name differs from it by surrounding spaces."""
    if name in names:
        return name
    close = [other for other in names if other.strip() == name.strip()]
    return close[0] if len(close) == 1 else None
