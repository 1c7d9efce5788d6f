"""Parse the columns of a table: numbers, true and false, or text; and find missing values."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
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
EXACT = 2**53  # float64 cannot represent every integer beyond it
LARGEST = float(np.finfo(np.float32).max)


@dataclass(frozen=True)
class Column:
    """One column below the header.

    Attributes:
        text: the cells as in the file, (N,).
        kind: of the cells; `yes_no` are the words true and false.
        values: float64 (N,) for numbers and for `yes_no` (1 and 0), NaN for a missing value; None for text.
        missing: the number of missing values.
    """

    text: "pa.ChunkedArray"
    kind: Literal["number", "yes_no", "text"]
    values: np.ndarray | None
    missing: int


def parse(text: "pa.ChunkedArray") -> Column:
    """Parse a column: as numbers if every cell is a number or one of `MISSING`; surrounding spaces are ignored."""
    import pyarrow as pa
    import pyarrow.compute as compute

    try:
        values = compute.cast(text, pa.float64()).to_numpy()  # fast, if there are no spaces and no missing values
    except pa.ArrowInvalid:
        trimmed = compute.utf8_trim(text, " \t")
        missing = compute.is_in(trimmed, pa.array(MISSING))
        present = compute.if_else(missing, None, trimmed)
        try:
            values = compute.cast(present, pa.float64()).to_numpy()
        except pa.ArrowInvalid:
            yes, no = (compute.is_in(present, pa.array(words)) for words in (YES, NO))
            if not compute.all(compute.or_(compute.or_(yes, no), missing)).as_py():
                return Column(text, "text", None, compute.sum(compute.equal(trimmed, "")).as_py() or 0)
            count = compute.sum(missing).as_py() or 0
            return Column(text, "yes_no", np.where(missing.to_numpy(), np.nan, yes.to_numpy()), count)
    return Column(text, "number", values, int(np.isnan(values).sum()))


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
