"""Decide whether the target of a table is classes or values."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

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
    find_rounded,
    first_text,
    is_whole,
    join,
)
from runner.data.listing import list_names
from runner.data.table_cells import QUOTE
from runner.errors import ConfigError, Problem

KEY = "data.target_type"
MOST_CLASSES = 20  # integers or texts with more different values are classes only if they are frequent
NAMES = 10  # a target with as many rows or more, of which most differ, names the rows

Takes = Literal["classes", "values", "either"]
TargetType = Literal["auto", "category", "number"]


@dataclass(frozen=True)
class Target:
    """The target column.

    Attributes:
        values: class indices, int64 (N,), or numbers, float64 (N,).
        classes: the names of the classes 0, 1, ...; None for numbers.
        note: a short phrase about the decision.
    """

    values: np.ndarray
    classes: list[str] | None
    note: str


def read_target(name: str, columns: Sequence[Column], target_type: TargetType | None, takes: Takes | None) -> Target:
    """Decide whether a target is classes or values.

    Text and true/false are classes. Integers are classes, unless the loss takes values; more than 20 different ones,
    or more than a tenth of the rows, are ambiguous. Other numbers are values.

    Args:
        name: of the column.
        columns: its cells, of each part.
        target_type: `category` or `number` decides; `auto`, or None, depends on the column.
        takes: what the loss takes as targets; None if that is not known.

    Raises:
        ConfigError: the column is ambiguous, or contradicts the loss.
    """
    import pyarrow as pa

    column = join(
        columns, lambda: pa.chunked_array([chunk for one in columns for chunk in one.text.chunks], pa.string())
    )
    how = "auto" if target_type is None else target_type
    if how == "number":
        return _numbers(name, column, takes)
    if how == "category":
        if takes == "values":
            text = f"{KEY}=category makes classes of the target {name}, and the loss takes values"
            raise ConfigError(Problem(KEY, text, f"write {KEY}=number, or loss=cross_entropy", topic="conflict"))
        if column.values is not None and column.kind == "number":
            refuse_many_numbers(name, column.different[0], len(column.values), target_type, takes)
        return _classes(name, column)
    if column.kind == "text":
        _check_text(name, column, takes)
        return _classes(name, column)
    if column.kind == "yes_no":
        _check_spelling(name, column)
        return _classes(name, column)
    return _whole_or_not(name, column, takes)


def too_many(count: int, rows: int) -> bool:
    """Whether so many different values name the rows, so that there is nothing to learn of a class."""
    return rows >= NAMES and 2 * count > rows


def too_many_to_learn(name: str, count: int, what: str, rows: int, suggestion: str) -> ConfigError:
    """Make the error of a target most of whose classes would have one row."""
    text = f"data.target: the target {name} has {count:,} different {what} in {rows:,} rows, too many to learn"
    return ConfigError(Problem("data.target", text, suggestion, topic="data"))


def refuse_many_numbers(
    name: str, different: np.ndarray, rows: int, target_type: TargetType | None, takes: Takes | None
) -> None:
    """Check that numbers may be classes: `data.target_type=category` says so of whole numbers, never of decimals.

    Args:
        name: of the target.
        different: its different values.
        rows: the number of all values.
        target_type: see `read_target`.
        takes: see `read_target`.

    Raises:
        ConfigError: they are values.
    """
    whole, count = is_whole(different), len(different)
    if not too_many(count, rows) or (whole and target_type == "category"):
        return
    typed = [f"{KEY}=number"] if target_type == "category" else []
    typed += ["loss=mse"] if takes == "classes" else []
    suggestion = f"write {' '.join(typed)}" + (f", or {KEY}=category if they are classes" if whole else "")
    raise too_many_to_learn(name, count, "numbers", rows, suggestion)


def _ambiguous(name: str, text: str, suggestion: str) -> ConfigError:
    """Make the error of a target that `auto` cannot decide on."""
    return ConfigError(Problem(KEY, f"{KEY}=auto: the target {name} has {text}", suggestion, topic="data"))


def _as_category(takes: Takes | None) -> str:
    """Return the settings that make a target classes; the loss has to take them."""
    return f"{KEY}=category loss=cross_entropy" if takes == "values" else f"{KEY}=category"


def _numbers(name: str, column: Column, takes: Takes | None) -> Target:
    """Read the target as `number` asks."""
    if column.values is None:
        text = f"{KEY}=number: the target {name} has text ({first_text(column)!r})"
        suggestion = f"write {_as_category(takes)}, or write decimal points and no other marks in the table"
        raise ConfigError(Problem(KEY, text, suggestion, topic="data"))
    if takes == "classes":
        text = f"{KEY}=number makes values of the target {name}, and the loss takes classes"
        raise ConfigError(Problem(KEY, text, f"write {KEY}=category, or loss=mse", topic="conflict"))
    return _as_values(name, column)


def _as_values(name: str, column: Column) -> Target:
    assert column.values is not None
    if number := find_rounded(column):
        text = f"data.target: the target {name} has integers that a 64-bit float would round ({number})"
        suggestion = f"scale them, or write {KEY}=category loss=cross_entropy"
        raise ConfigError(Problem("data.target", text, suggestion, topic="data"))
    return Target(column.values.astype(np.float64), None, "values")


def _whole_or_not(name: str, column: Column, takes: Takes | None) -> Target:
    """Read numbers as `auto` decides."""
    values = column.values
    assert values is not None
    rows = len(values)
    if not is_whole(values):
        return _as_values(name, column)
    zeros = column.has_leading_zeros
    if takes == "values":
        if zeros:
            text = f"numbers with leading zeros ({_first_match(column, LEADING_ZERO)})"
            raise _ambiguous(name, text, f"write {KEY}=number if they are values")
        return _as_values(name, column)
    if zeros:
        _check_spelling(name, column)
    count = len(column.different[0])
    if count > 1 and (count > MOST_CLASSES or count * 10 > rows):
        text = f"{count} different numbers in {rows} rows, which may be values or classes"
        raise _ambiguous(name, text, f"write {KEY}=number loss=mse, or {KEY}=category")
    if takes is None and not zeros:
        if not np.array_equal(column.different[0], np.arange(count)):
            text = f"{count} different integers, and the loss does not declare whether it takes classes or values"
            raise _ambiguous(name, text, f"write {KEY}=category or {KEY}=number")
        return Target(values.astype(np.int64), None, f"integers from 0 to {count - 1}")
    return _classes(name, column)


def _classes(name: str, column: Column) -> Target:
    """Map the different values to 0..k-1, numbers by size and text by its characters; their names are the classes."""
    import pyarrow.compute as compute

    values = column.values
    by_text = column.kind != "number" or column.has_leading_zeros
    if values is None or by_text or column.largest >= EXACT:
        if compute.any(compute.match_substring_regex(column.text, OTHER_QUOTES)).as_py():
            quoted = _first_match(column, OTHER_QUOTES)
            text = f"data.target: the target {name} is quoted with ' or \\ ({quoted})"
            raise ConfigError(Problem("data.target", text, QUOTE, topic="data"))
        names, encoded = np.unique(np.array(column.text.to_pylist(), dtype=object), return_inverse=True)
        classes = [str(label) for label in names]
    else:
        numbers, encoded = column.different
        classes = [str(int(label)) if label % 1 == 0 else repr(label) for label in numbers.tolist()]
    if len(classes) < 2:
        text = f"data.target: the target {name} is {classes[0]!r} in all rows, and a classifier needs two classes"
        suggestion = "name another column with data.target=<column>, or write loss=mse if it holds values"
        raise ConfigError(Problem("data.target", text, suggestion, topic="data"))
    note = f"{len(classes)} classes ({list_names(classes)})"
    if words_of_missing := [label for label in classes if label in MISSING]:
        note += f", including {words_of_missing[0]}"
    return Target(encoded.astype(np.int64), classes, note)


def _check_text(name: str, column: Column, takes: Takes | None) -> None:
    """Check that text is probably meant as classes.

    Raises:
        ConfigError: it contains numbers, is numbers in another notation or dates, or hardly ever repeats.
    """
    import pyarrow.compute as compute

    texts = compute.unique(column.text).to_pylist()
    cells = [cell.strip() for cell in texts]
    rows, count = len(column.text), len(cells)
    decide = f"write {_as_category(takes)} if they are classes"
    if spaced := next((text for text in texts if text.strip() != text and cells.count(text.strip()) > 1), None):
        other = next(text for text in texts if text.strip() == spaced.strip() and text != spaced)
        text = f"one text with and without spaces ({other!r}, {spaced!r})"
        raise _ambiguous(name, text, f"write {_as_category(takes)} if each is a class, or make them the same")
    if any(NUMBER.fullmatch(cell) for cell in cells):
        words = list_names(repr(cell) for cell in cells if not NUMBER.fullmatch(cell))
        raise _ambiguous(name, f"numbers and text ({words})", f"correct the cells, or {decide}")
    if other := next((cell for cell in cells if OTHER_NOTATION.fullmatch(cell) or DATE.fullmatch(cell)), None):
        text = f"dates, or numbers in another notation ({other!r})"
        how = "write data=table, which takes dates" if DATE.fullmatch(other) else "write decimal points, no other marks"
        raise _ambiguous(name, text, f"{how}, or {decide}")
    if (count > MOST_CLASSES and count * 10 > rows) or too_many(count, rows):
        text = f"{count} different texts in {rows} rows"
        raise _ambiguous(name, text, f"name another column with data.target=<column>, or {decide}")


def _check_spelling(name: str, column: Column) -> None:
    """Check that equal numbers are spelled the same: as text `1` and `01` would be two classes.

    Raises:
        ConfigError: they are not.
    """
    assert column.values is not None
    texts: dict[float, str] = {}
    for value, cell in zip(column.values.tolist(), column.text.to_pylist(), strict=True):
        if texts.setdefault(value, cell) != cell:
            text = f"one value in several spellings ({texts[value]!r}, {cell!r})"
            raise _ambiguous(name, text, f"write {KEY}=category if each is a class, or spell them the same")


def _first_match(column: Column, pattern: str) -> str:
    return next(cell for cell in column.text.to_pylist() if re.search(pattern, cell))
