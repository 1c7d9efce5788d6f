"""Parse the columns of a table: numbers, true and false, or text; and find missing values."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch

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
        characters: the number of bytes of all cells; any other number if there are values that are not whole.
        largest: the largest absolute value; 0 if there is none.
    """

    read: "Callable[[], pa.ChunkedArray]"
    kind: Literal["number", "yes_no", "text"]
    values: np.ndarray | None
    missing: int
    empty: int
    only_missing: bool
    characters: int
    largest: float

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
        if not is_whole(values) or self.largest >= EXACT:
            return False
        different, places = self.different
        shortest = [len(str(int(value))) for value in different[:MOST_SPELLED]]
        if len(different) > MOST_SPELLED:
            return False
        return int(np.dot(shortest, np.bincount(places, minlength=len(shortest)))) == self.characters

    @cached_property
    def different(self) -> tuple[np.ndarray, np.ndarray]:
        """The different values in ascending order, and the place of each row's value among them, int64 (N,)."""
        assert self.values is not None
        return find_different(self.values)

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
        plain = compute.cast(text, pa.float64())  # fast, without spaces and blanks
        if (column := parse_numbers(plain, read, size)) is not None:
            return column
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
            return Column(read, "text", None, empty, empty, False, size, 0.0)
        where = is_missing.to_numpy(zero_copy_only=False)
        values = np.where(where, np.nan, yes.to_numpy(zero_copy_only=False))
        return Column(read, "yes_no", values, int(where.sum()), empty, False, size, 1.0)
    missing, largest = _measure(values)
    return Column(read, "number", values, missing, empty, only_missing, size, largest)


def parse_numbers(
    cells: "pa.Array | pa.ChunkedArray", read: "Callable[[], pa.ChunkedArray]", characters: int = 0
) -> Column | None:
    """Return a column of cells that are all numbers, float64; None if there are rows, and all are missing."""
    values = cells.to_numpy(zero_copy_only=False)
    missing, largest = _measure(values)
    if missing and missing == len(values):
        return None
    return Column(read, "number", values, missing, 0, False, characters, largest)


def not_kept() -> "pa.ChunkedArray":
    """Stand for the text of a block, which is only read again as a part of its column."""
    raise AssertionError("the text of a block is not kept")


def find_different(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Find the different numbers by hashing, which takes a tenth of the time of sorting them.

    Returns:
        They in ascending order, and the place of each number among them, int64 (N,).
    """
    import pyarrow as pa

    encoded = pa.array(values).dictionary_encode()
    different, places = np.unique(encoded.dictionary.to_numpy(zero_copy_only=False), return_inverse=True)
    return different, places.astype(np.int64)[encoded.indices.to_numpy()]


def is_whole(values: np.ndarray) -> bool:
    """Whether all numbers are whole; infinity and NaN are not."""
    with np.errstate(invalid="ignore"):  # of infinity
        return not any((part - np.floor(part) != 0).any() for part in (values[:1000], values[1000:]))


def _measure(values: np.ndarray) -> tuple[int, float]:
    """Return the number of missing values, and the largest absolute value, or 0."""
    if not len(values):
        return 0, 0.0
    least, most = float(values.min()), float(values.max())  # NaN if one is missing
    if most == most:
        return 0, max(-least, most)
    present = values[~np.isnan(values)]
    return len(values) - len(present), float(np.abs(present).max()) if len(present) else 0.0


def empty(*shape: int) -> np.ndarray:
    """Return an array, float64, that is not filled.

    Its memory is torch's: NumPy asks for huge pages, and the first use of those takes four times as long on a virtual
    machine whose host takes unused memory back.
    """
    return torch.empty(shape, dtype=torch.float64).numpy()


class Joined:
    """The rows of a column that were parsed one after the other, as if all had been parsed at once.

    Args:
        rows: about how many there will be.
    """

    def __init__(self, rows: int) -> None:
        self._values: np.ndarray | None = empty(rows)
        self._kinds: set[Literal["number", "yes_no", "text"]] = set()
        self._rows = self._missing = self._empty = self._characters = 0
        self._largest = 0.0

    def add(self, column: Column) -> None:
        """Append rows."""
        self._kinds |= set() if column.only_missing else {column.kind}
        self._empty += column.empty
        self._characters += column.characters
        self._missing += column.missing
        self._largest = max(self._largest, column.largest)
        if "text" in self._kinds or len(self._kinds) > 1:
            self._values = None
        if self._values is None or column.values is None:
            return
        begin, self._rows = self._rows, self._rows + len(column.values)
        if self._rows > len(self._values):
            filled, self._values = self._values[:begin], empty(max(self._rows, len(self._values) * 5 // 4))
            self._values[:begin] = filled
        self._values[begin : self._rows] = column.values

    def column(self, read: "Callable[[], pa.ChunkedArray]") -> Column:
        """Return the column; nothing can be added any more."""
        if self._values is None:
            return Column(read, "text", None, self._empty, self._empty, False, self._characters, 0.0)
        kind: Literal["number", "yes_no", "text"] = next(iter(self._kinds), "number")
        only_missing = not self._kinds and self._rows > 0
        return Column(
            read,
            kind,
            self._values[: self._rows],
            self._missing,
            self._empty,
            only_missing,
            self._characters,
            self._largest,
        )


def join(columns: Sequence[Column], read: "Callable[[], pa.ChunkedArray]") -> Column:
    """Join the rows of a column in several tables, or of its first row and the others."""
    joined = Joined(sum(0 if column.values is None else len(column.values) for column in columns))
    for column in columns:
        joined.add(column)
    return joined.column(read)


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
        if column.largest > LARGEST:
            infinite.append(f"{name} ({np.count_nonzero(np.abs(column.values) > LARGEST)})")
        elif name != target and (number := find_rounded(column)):
            rounded.append(f"{name} ({number})")
    problems = []
    if missing:
        how = "fill them in, or drop the rows" + ("" if target is None else ", or write data=table, which takes blanks")
        problems.append(file.problem(f"missing values in {list_names(missing)}", how))
    if text:
        how = "write decimal points and no other marks" if other_notation else "encode them as numbers"
        if target is not None:
            how = f"write data=table, which takes text and dates; or {how}, drop these columns, leave one out with"
            how += " data.index=<column>, or name another data.target=<column>"
        problems.append(file.problem(f"text instead of numbers in {list_names(text)}", how))
    if infinite:
        problems.append(file.problem(f"infinite values (beyond 3e38) in {list_names(infinite)}", "drop these rows"))
    if rounded:
        how = "drop these columns" + ("" if target is None else ", or leave one out with data.index=<column>")
        problems.append(file.problem(f"integers that a 64-bit float would round, in {list_names(rounded)}", how))
    return problems


def find_rounded(column: Column) -> str:
    """Find the first integer that float64 rounds in a column of numbers; empty if there is none."""
    assert column.values is not None
    if column.largest < EXACT:
        return ""
    for row in np.flatnonzero(np.abs(column.values) >= EXACT).tolist():
        cell = column.text[row].as_py().strip()
        if WHOLE.fullmatch(cell) and int(cell) != int(column.values[row]):
            return cell
    return ""


def first_text(column: Column) -> str:
    """Return the first cell that is neither a number nor missing; empty if there is none."""
    cells = (cell.strip(" \t") for cell in column.text.to_pylist())
    return next((cell for cell in cells if cell not in MISSING and not NUMBER.fullmatch(cell)), "")
