"""Whether the target of a table is classes or values."""

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from runner.data.columns import (
    DATE,
    EXACT,
    LEADING_ZERO,
    MISSING,
    NUMBER,
    OTHER_NOTATION,
    OTHER_QUOTES,
    Column,
    inexact,
    list_names,
    parse,
)
from runner.data.table_file import QUOTE
from runner.errors import ConfigError

if TYPE_CHECKING:
    import pyarrow as pa

MOST_CLASSES = 20

Takes = Literal["classes", "values", "either"]
TargetType = Literal["auto", "category", "number"]


@dataclass(frozen=True)
class Target:
    """A target as training takes it.

    Attributes:
        values: class indices, int64 (N,), or numbers, float64 (N,).
        classes: the names of the classes 0, 1, ...; None for numbers.
        note: what was decided.
    """

    values: np.ndarray
    classes: list[str] | None
    note: str


def read_target(
    name: str, texts: "list[pa.ChunkedArray]", target_type: TargetType | None, takes: Takes | None
) -> Target:
    """Decide whether a target is classes or values.

    Text and true/false are classes. Whole numbers are classes, those that occur, in their order, unless the loss takes
    values; more than 20 of them, or more than a tenth of the rows, are in doubt. Other numbers are values.

    Args:
        name: of the column.
        texts: its cells in each part.
        target_type: `category` or `number` decides; `auto`, or None, goes by what the column holds.
        takes: what the loss can be given; None if that is not known.

    Raises:
        ConfigError: it cannot be told, or contradicts the loss.
    """
    import pyarrow as pa

    column = parse(pa.chunked_array([chunk for text in texts for chunk in text.chunks], pa.string()))
    how = "auto" if target_type is None else target_type
    if how == "number":
        return _numbers(name, column, takes)
    if how == "category":
        if takes == "values":
            raise ConfigError(
                f"data.target_type=category makes classes of {name}, and the loss takes values; write"
                " loss=cross_entropy, or data.target_type=number"
            )
        return _classes(name, column)
    if column.kind == "text":
        _check_text(name, column)
        return _classes(name, column)
    if column.kind == "yes_no":
        _check_spelling(name, column)
        return _classes(name, column)
    return _whole_or_not(name, column, takes)


def _numbers(name: str, column: Column, takes: Takes | None) -> Target:
    if column.values is None:
        raise ConfigError(
            f"data.target_type=number: the target {name} has text ({_first_text(column)!r}); write"
            " data.target_type=category, or numbers with decimal points and no other marks"
        )
    if takes == "classes":
        raise ConfigError(
            f"data.target_type=number makes values of {name}, and the loss takes classes; write loss=mse, or"
            " data.target_type=category"
        )
    return _as_values(name, column)


def _as_values(name: str, column: Column) -> Target:
    assert column.values is not None
    if lost := inexact(column, np.abs(column.values)):
        raise ConfigError(
            f"data.target_type: the target {name} has whole numbers that a 64-bit float rounds ({lost});"
            f" scale them, or write data.target_type=category"
        )
    return Target(column.values.astype(np.float64), None, "values")


def _whole_or_not(name: str, column: Column, takes: Takes | None) -> Target:
    """`auto` for numbers."""
    import pyarrow.compute as compute

    values, rows = column.values, len(column.text)
    assert values is not None
    if (values % 1 != 0).any():
        return _as_values(name, column)
    zeros = compute.any(compute.match_substring_regex(column.text, LEADING_ZERO)).as_py()
    if takes == "values":
        if zeros:
            raise ConfigError(
                f"data.target_type=auto: the target {name} has numbers with leading zeros"
                f" ({_matching(column, LEADING_ZERO)}); write data.target_type=number if they are values"
            )
        return _as_values(name, column)
    if zeros:
        _check_spelling(name, column)
    count = len(np.unique(values))
    if count > 1 and (count > MOST_CLASSES or count * 10 > rows):
        raise ConfigError(
            f"data.target_type=auto: the target {name} has {count} different numbers in {rows} rows, which may be"
            " values or classes; write data.target_type=number loss=mse, or data.target_type=category"
        )
    if takes is None and not zeros:
        if not np.array_equal(np.unique(values), np.arange(count)):
            raise ConfigError(
                f"data.target_type=auto: the target {name} has {count} different whole numbers, and the loss does not"
                " say whether it takes classes or values; write data.target_type=category or data.target_type=number"
            )
        return Target(values.astype(np.int64), None, f"whole numbers from 0 to {count - 1}")
    return _classes(name, column)


def _classes(name: str, column: Column) -> Target:
    """The values that occur, mapped to 0..k-1, with their names: numbers by size, text by its characters."""
    import pyarrow.compute as compute

    values = column.values
    by_text = column.kind != "number" or compute.any(compute.match_substring_regex(column.text, LEADING_ZERO)).as_py()
    if values is None or by_text or (np.abs(values) >= EXACT).any():
        if compute.any(compute.match_substring_regex(column.text, OTHER_QUOTES)).as_py():
            raise ConfigError(
                f"data.target: the target {name} is quoted with ' or \\ ({_matching(column, OTHER_QUOTES)}); {QUOTE}"
            )
        names, encoded = np.unique(np.array(column.text.to_pylist(), dtype=object), return_inverse=True)
        classes = [str(one) for one in names]
    else:
        found, encoded = np.unique(values, return_inverse=True)
        classes = [str(int(one)) if one % 1 == 0 else repr(one) for one in found.tolist()]
    if len(classes) < 2:
        raise ConfigError(
            f"data.target: the target {name} is {classes[0]!r} in all rows, and classes are at least two; name another"
            " column with data.target=<column>, or write loss=mse if it holds values"
        )
    note = f"{len(classes)} classes ({list_names(classes)})"
    if words_of_missing := [one for one in classes if one in MISSING]:
        note += f", {words_of_missing[0]} being a class"
    return Target(encoded.astype(np.int64), classes, note)


def _check_text(name: str, column: Column) -> None:
    """Refuse text that may not have been meant as classes.

    Raises:
        ConfigError: it has numbers in it, is numbers in another notation, dates, or hardly ever the same.
    """
    import pyarrow.compute as compute

    texts = compute.unique(column.text).to_pylist()
    cells = [cell.strip() for cell in texts]
    rows, count = len(column.text), len(cells)
    decide = "write data.target_type=category if they are classes"
    if spaced := next((text for text in texts if text.strip() != text and cells.count(text.strip()) > 1), None):
        other = next(text for text in texts if text.strip() == spaced.strip() and text != spaced)
        raise ConfigError(
            f"data.target_type=auto: the target {name} has one text with and without spaces ({other!r}, {spaced!r});"
            " write it in one way, or data.target_type=category if each is a class"
        )
    if any(NUMBER.fullmatch(cell) for cell in cells):
        words = list_names(repr(cell) for cell in cells if not NUMBER.fullmatch(cell))
        raise ConfigError(
            f"data.target_type=auto: the target {name} has numbers and text ({words}); fix it, or {decide}"
        )
    if other := next((cell for cell in cells if OTHER_NOTATION.fullmatch(cell) or DATE.fullmatch(cell)), None):
        raise ConfigError(
            f"data.target_type=auto: the target {name} has dates, or numbers in another notation ({other!r}); write"
            f" decimal points and no other marks, or {decide}"
        )
    if (count > MOST_CLASSES and count * 10 > rows) or (rows >= 10 and count * 2 > rows):
        raise ConfigError(
            f"data.target_type=auto: the target {name} has {count} different texts in {rows} rows; name another with"
            f" data.target=<column>, or {decide}"
        )


def _check_spelling(name: str, column: Column) -> None:
    """Refuse cells that are equal and not the same text (`1` and `01`): by text they would be two classes.

    Raises:
        ConfigError: there are some.
    """
    assert column.values is not None
    texts: dict[float, str] = {}
    for value, cell in zip(column.values.tolist(), column.text.to_pylist(), strict=True):
        if texts.setdefault(value, cell) != cell:
            raise ConfigError(
                f"data.target_type=auto: the target {name} has one value in several spellings ({texts[value]!r},"
                f" {cell!r}); write it in one, or data.target_type=category if each is a class"
            )


def _first_text(column: Column) -> str:
    cells = (cell.strip(" \t") for cell in column.text.to_pylist())
    return next((cell for cell in cells if cell not in MISSING and not NUMBER.fullmatch(cell)), "")


def _matching(column: Column, pattern: str) -> str:
    return next(cell for cell in column.text.to_pylist() if re.search(pattern, cell))
