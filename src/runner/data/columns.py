"""Parse the columns of a table: numbers, true and false, or text; and find missing values."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal

import numpy as np

from runner.data.listing import list_names
from runner.data.named_path import NamedPath
from runner.errors import Problem

if TYPE_CHECKING:
    import pyarrow as pa

MISSING = ("", "NA", "N/A", "n/a", "NaN", "nan", "-nan", "-NaN", "NULL", "null", "None", "<NA>", "#N/A", "#NA")
"""Words for a missing value in a column of numbers. In a column of text only an empty cell is missing."""
YES, NO = ("True", "TRUE", "true"), ("False", "FALSE", "false")
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
WHOLE = re.compile(r"[+-]?\d+", re.ASCII)
LEADING_ZERO = r"^[+-]?0\d"
OTHER_NOTATION = re.compile(
    r"[+-]?\d[\d.,' ]*[.,' ]\d+([eE][+-]?\d+)?\s?%?|[+-]?\d[\d.,]*\s?%|[$€£]\s?\d[\d.,]*", re.ASCII
)
"""Numbers with a decimal comma, thousands separators, a percent sign or a currency sign."""
DATE = re.compile(r"\d{1,4}[-/.]\d{1,2}[-/.]\d{1,4}([T ].*)?|\d{1,2}:\d{2}(:\d{2}.*)?", re.ASCII)
OTHER_QUOTES = r"""\\[\\"',;|\t]|^'.*'$"""
"""Escaped quotes and delimiters, and text in single quotes: other programs quote in these ways."""
MOST_SPELLED = 100_000
"""Different whole numbers whose spelling is checked without reading their text again."""
EXACT = 2**53  # float64 cannot represent every integer beyond it
LARGEST = float(np.finfo(np.float32).max)


@dataclass(frozen=True)
class Column:
    """One column below the header, or some of its rows.

    Attributes:
        read: returns `text`.
        kind: of the cells; `yes_no` are the words true and false.
        values: float64 (N,) for numbers and for `yes_no` (1 and 0), NaN for a missing value; None for text.
        missing: the number of missing values.
        empty: the number of cells without text.
        only_missing: whether there are values, and all are missing; then the kind is `number`.
        characters: the number of bytes of all cells.
    """

    read: "Callable[[], pa.ChunkedArray]"
    kind: Literal["number", "yes_no", "text"]
    values: np.ndarray | None
    missing: int
    empty: int
    only_missing: bool
    characters: int

    @cached_property
    def has_leading_zeros(self) -> bool:
        """Whether a cell begins with 0 and another digit."""
        import pyarrow.compute as compute

        return not self._is_shortest and bool(
            compute.any(compute.match_substring_regex(self.text, LEADING_ZERO)).as_py()
        )

    @property
    def _is_shortest(self) -> bool:
        """Whether all cells are whole numbers in their shortest spelling: then their text has as few characters."""
        values = self.values
        if self.kind != "number" or values is None or self.missing or not len(values):
            return False
        if (values % 1 != 0).any() or (np.abs(values) >= EXACT).any():
            return False
        different, counts = np.unique(values, return_counts=True)
        shortest = [len(str(int(value))) for value in different[:MOST_SPELLED]]
        return len(different) <= MOST_SPELLED and int(np.dot(shortest, counts)) == self.characters

    @cached_property
    def text(self) -> "pa.ChunkedArray":
        """The cells as in the file, (N,); of a large table they are read from it again."""
        return self.read()


def parse_rows(text: "pa.Array | pa.ChunkedArray", read: "Callable[[], pa.ChunkedArray]") -> Column:
    """Parse cells: as numbers if every one is a number or one of `MISSING`; surrounding spaces are ignored.

    Args:
        text: the cells.
        read: returns them when their text is needed later.
    """
    import pyarrow as pa
    import pyarrow.compute as compute

    size = compute.sum(compute.binary_length(text)).as_py() or 0
    try:
        values = compute.cast(text, pa.float64()).to_numpy(zero_copy_only=False)  # fast, without spaces and blanks
        missing = int(np.isnan(values).sum())
        if missing < len(values) or not missing:
            return Column(read, "number", values, missing, 0, False, size)
    except pa.ArrowInvalid:
        pass
    trimmed = compute.utf8_trim(text, " \t")
    is_missing = compute.is_in(trimmed, pa.array(MISSING))
    only_missing = compute.all(is_missing).as_py() is True
    empty = compute.sum(compute.equal(trimmed, "")).as_py() or 0
    present = compute.if_else(is_missing, None, trimmed)
    try:
        values = compute.cast(present, pa.float64()).to_numpy(zero_copy_only=False)
    except pa.ArrowInvalid:
        yes, no = (compute.is_in(present, pa.array(words)) for words in (YES, NO))
        if not compute.all(compute.or_(compute.or_(yes, no), is_missing)).as_py():
            return Column(read, "text", None, empty, empty, False, size)
        where = is_missing.to_numpy(zero_copy_only=False)
        values = np.where(where, np.nan, yes.to_numpy(zero_copy_only=False))
        return Column(read, "yes_no", values, int(where.sum()), empty, False, size)
    return Column(read, "number", values, int(np.isnan(values).sum()), empty, only_missing, size)


def join(columns: Sequence[Column], read: "Callable[[], pa.ChunkedArray]") -> Column:
    """Join the rows of a column that were parsed one after the other, as if all had been parsed at once."""
    kinds = {column.kind for column in columns if not column.only_missing}
    empty, size = (sum(getattr(column, name) for column in columns) for name in ("empty", "characters"))
    if "text" in kinds or len(kinds) > 1:
        return Column(read, "text", None, empty, empty, False, size)
    values = np.concatenate([column.values for column in columns if column.values is not None])
    missing = sum(column.missing for column in columns)
    return Column(read, next(iter(kinds), "number"), values, missing, empty, not kinds and len(values) > 0, size)


def find_faults(columns: Mapping[str, Column], file: NamedPath, target: str | None = None) -> list[Problem]:
    """Find the columns that cannot be used.

    Args:
        columns: by their names.
        file: they are from it.
        target: the column that is predicted: it may be text, and must be complete; None for new samples.
    """
    missing = [
        name if target is None else f"{name} ({column.missing})" for name, column in columns.items() if column.missing
    ]
    text, infinite, rounded = [], [], []
    other_notation = False
    for name, column in columns.items():
        if column.values is None:
            if name != target:
                cell = first_text(column)
                text.append(f"{name} ({cell!r})")
                other_notation = other_notation or OTHER_NOTATION.fullmatch(cell) is not None
            continue
        with np.errstate(invalid="ignore"):
            size = np.abs(column.values)
        if count := int((size > LARGEST).sum()):
            infinite.append(f"{name} ({count})")
        elif name != target and (number := find_rounded(column, size)):
            rounded.append(f"{name} ({number})")
    problems = []
    if missing:
        problems.append(file.problem(f"missing values in {list_names(missing)}", "fill them in, or drop the rows"))
    if text:
        how = "write decimal points and no other marks" if other_notation else "encode them as numbers"
        if target is not None:
            how += ", drop these columns, leave one out with data.index=<column>, or name another data.target=<column>"
        problems.append(file.problem(f"text instead of numbers in {list_names(text)}", how))
    if infinite:
        problems.append(file.problem(f"infinite values (beyond 3e38) in {list_names(infinite)}", "drop these rows"))
    if rounded:
        how = "drop these columns" + ("" if target is None else ", or leave one out with data.index=<column>")
        problems.append(file.problem(f"integers that a 64-bit float would round, in {list_names(rounded)}", how))
    return problems


def find_rounded(column: Column, size: np.ndarray) -> str:
    """Find the first integer that float64 rounds; empty if there is none.

    Args:
        column: of numbers.
        size: their absolute values.
    """
    assert column.values is not None
    for row in np.flatnonzero(size >= EXACT).tolist():
        cell = column.text[row].as_py().strip()
        if WHOLE.fullmatch(cell) and int(cell) != int(column.values[row]):
            return cell
    return ""


def first_text(column: Column) -> str:
    """Return the first cell that is neither a number nor missing; empty if there is none."""
    cells = (cell.strip(" \t") for cell in column.text.to_pylist())
    return next((cell for cell in cells if cell not in MISSING and not NUMBER.fullmatch(cell)), "")
