"""What the cells of a table mean, column by column: numbers, true and false, or text; and what is missing."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    import pyarrow as pa

MISSING = ("", "NA", "N/A", "n/a", "NaN", "nan", "-nan", "-NaN", "NULL", "null", "None", "<NA>", "#N/A", "#NA")
"""Words that stand for a missing value among numbers. In a column of text only an empty cell is missing."""
YES, NO = ("True", "TRUE", "true"), ("False", "FALSE", "false")
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
WHOLE = re.compile(r"[+-]?\d+", re.ASCII)
LEADING_ZERO = r"^[+-]?0\d"
OTHER_NOTATION = re.compile(
    r"[+-]?\d[\d.,' ]*[.,' ]\d+([eE][+-]?\d+)?\s?%?|[+-]?\d[\d.,]*\s?%|[$€£]\s?\d[\d.,]*", re.ASCII
)
"""Numbers with a decimal comma, thousands separators, a per cent sign or a currency."""
DATE = re.compile(r"\d{1,4}[-/.]\d{1,2}[-/.]\d{1,4}([T ].*)?|\d{1,2}:\d{2}(:\d{2}.*)?", re.ASCII)
OTHER_QUOTES = r"""\\[\\"',;|\t]|^'.*'$"""
"""Quotes and delimiters behind a backslash, and text between single quotes: how other programs may quote."""
EXACT = 2**53  # beyond it float64 leaves out whole numbers
LARGEST = float(np.finfo(np.float32).max)
NAMES_SHOWN = 5


@dataclass(frozen=True)
class Column:
    """One column below the header.

    Attributes:
        text: the cells as they are in the file, (N,).
        kind: what they hold; `yes_no` are the words true and false.
        values: float64 (N,) of numbers and of `yes_no` (1 and 0), NaN where one is missing; None for text.
        missing: how many values are missing.
    """

    text: "pa.ChunkedArray"
    kind: Literal["number", "yes_no", "text"]
    values: np.ndarray | None
    missing: int


def parse(text: "pa.ChunkedArray") -> Column:
    """Find out what a column holds: numbers where every cell is one or a word of `MISSING`; spaces do not count."""
    import pyarrow as pa
    import pyarrow.compute as compute

    try:
        values = compute.cast(text, pa.float64()).to_numpy()  # the fast way: no spaces, nothing missing
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


def find_faults(columns: Mapping[str, Column], given: str, target: str | None = None) -> list[str]:
    """Say which columns cannot be used as numbers, and of the target, if there is one, whether it is complete."""
    missing = [
        name if target is None else f"{name} ({column.missing})" for name, column in columns.items() if column.missing
    ]
    text, infinite, long = [], [], []
    notation = False
    for name, column in columns.items():
        if column.values is None:
            if name != target:
                cells = (cell.strip(" \t") for cell in column.text.to_pylist())
                cell = next((cell for cell in cells if cell not in MISSING and not NUMBER.fullmatch(cell)), "")
                text.append(f"{name} ({cell!r})")
                notation = notation or OTHER_NOTATION.fullmatch(cell) is not None
            continue
        with np.errstate(invalid="ignore"):
            size = np.abs(column.values)
        if count := int((size > LARGEST).sum()):
            infinite.append(f"{name} ({count})")
        elif name != target and (lost := inexact(column, size)):
            long.append(f"{name} ({lost})")
    problems = []
    if missing:
        problems.append(f"{given} has missing values in {list_names(missing)}: fill them in or drop the rows")
    if text:
        how = "write decimal points and no other marks" if notation else "encode them as numbers"
        if target is not None:
            how += ", drop these columns, leave one out with data.index=<column>, or name another data.target=<column>"
        problems.append(f"{given} has text where numbers are needed, in {list_names(text)}; {how}")
    if infinite:
        problems.append(f"{given} has infinite values (beyond 3e38) in {list_names(infinite)}; drop these rows")
    if long:
        problems.append(
            f"{given} has whole numbers that a 64-bit float rounds, in {list_names(long)}; drop these columns, or leave"
            " one out with data.index=<column>"
        )
    return problems


def inexact(column: Column, size: np.ndarray) -> str:
    """The first whole number that float64 rounds; empty if there is none."""
    assert column.values is not None
    for row in np.flatnonzero(size >= EXACT).tolist():
        cell = column.text[row].as_py().strip()
        if WHOLE.fullmatch(cell) and int(cell) != int(column.values[row]):
            return cell
    return ""


def list_names(names: Iterable[str]) -> str:
    """The first few, for an error."""
    listed = sorted(names) if isinstance(names, set) else list(names)
    return ", ".join(listed[:NAMES_SHOWN]) + (", ..." if len(listed) > NAMES_SHOWN else "")
