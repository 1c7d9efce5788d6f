"""How a table is laid out: header, index and names of columns, by one set of rules for training and for new samples.

What is guessed becomes a note; what cannot be told is an error that names the key which decides it.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypedDict

import numpy as np

from runner.data.columns import MISSING, NO, NUMBER, OTHER_QUOTES, YES, Column, list_names, parse
from runner.data.table_file import QUOTE, read_cells
from runner.errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    import pyarrow as pa

NO_NAMES = (*MISSING, *YES, *NO, "?", "-", ".", "*")
"""Words that no column is called."""
INDEX = "Unnamed: 0"
"""How a first column without a name is called, as pandas does."""


class Reading(TypedDict):
    """What was found of a table's layout; new tables for the same model are read by it.

    Attributes:
        header: whether the first row holds names; without one columns are called 0, 1, ...
        index: the column that was left out; None if none was.
    """

    header: bool
    index: str | None


@dataclass(frozen=True)
class Table:
    """A table that was read.

    Attributes:
        columns: by their names, in the order of the file, without the index.
        rows: how many are below the header.
        reading: what was found.
        notes: what was guessed, short phrases.
    """

    columns: Mapping[str, Column]
    rows: int
    reading: Reading
    notes: Sequence[str]

    def numbers(self, names: Sequence[str]) -> np.ndarray:
        """The values of some columns, float64 (N, columns)."""
        columns = [values for name in names if (values := self.columns[name].values) is not None]
        return np.stack(columns, axis=1).astype(np.float64, copy=False)


def read_table(
    file: Path,
    given: str,
    index: str | int | None = None,
    header: bool | Literal["auto"] | None = None,
    known: Collection[str] = (),
) -> Table:
    """Read a table and find its names.

    Args:
        file: as `read_cells` takes it.
        given: key and value that named the file, to begin errors with: `data.path=table.csv`.
        index: the column to leave out. `none` leaves out none; `auto`, or None, a first column without a name whose
            values are all different.
        header: whether the first row holds names. `auto`, or None, tells it from what the columns hold.
        known: names that the header has, if there is one.

    Raises:
        ConfigError: the file is not a table, or its layout cannot be told.
    """
    cells = read_cells(file, given)
    notes = []
    if header in (None, "auto"):
        has_header, why = _has_header(_first(cells), _below(cells), known)
        if has_header is None:
            raise ConfigError(f"{given}: {why}; write data.header=true or data.header=false")
        notes += [why] if why else []
    else:
        has_header = bool(header)
    names, columns = _named(cells, has_header)
    if not has_header:
        notes.append(f"no header: columns are called 0 to {len(names) - 1}")
    rows = len(cells[0]) - has_header
    place, note = _find_index(names, columns, rows, "auto" if index is None else str(index), has_header, given)
    notes += [note] if note else []
    left_out = None if place is None else names[place]
    kept = {name: column for name, column in zip(names, columns, strict=True) if name != left_out}
    _check_names(names, given)
    return Table(kept, rows, {"header": has_header, "index": left_out}, notes)


def read_new(file: Path, given: str, features: Sequence[str], columns: Sequence[str], reading: Reading) -> Table:
    """Read a table of new samples for a model that was trained on another.

    Args:
        file: as `read_cells` takes it.
        given: key and value that named the file.
        features: names of the columns that the model takes.
        columns: names of all columns of the other table but its index.
        reading: how the other table was read.

    Returns:
        The features, by name in any order. Without a header they go by their places: in a table of the features alone,
        or of all columns that the other one had.

    Raises:
        ConfigError: it has other columns, or its layout cannot be told.
    """
    cells = read_cells(file, given)
    first = _first(cells)
    numbers = all(NUMBER.fullmatch(cell.strip()) for cell in first)
    has_header: bool | None = reading["header"] and {*features} <= {*first}
    if not has_header and (reading["header"] or not numbers):
        has_header, _ = _has_header(first, _below(cells), columns)
    names, found = _named(cells, bool(has_header))
    if has_header:
        places = {name: names.index(called) for name in features if (called := find_name(name, names)) is not None}
        if lacking := [name for name in features if name not in places]:
            raise ConfigError(
                f"{given} lacks the columns {list_names(lacking)}, which the model was trained on; it has"
                f" {list_names(names)}"
            )
        if twice := [name for name in features if names.count(name) > 1]:
            raise ConfigError(f"{given}: more than one column is called {list_names(twice)}; name each differently")
    else:
        layout = _layout(found, features, columns, reading)
        if layout is None:
            raise ConfigError(
                f"{given} has {len(names)} columns, the model was trained on {len(features)}: {list_names(features)};"
                " write these names into its first row"
            )
        places = {name: layout.index(name) for name in features}
    rows = len(cells[0]) - bool(has_header)
    return Table({name: found[place] for name, place in places.items()}, rows, reading, ())


def _layout(
    found: list[Column], features: Sequence[str], columns: Sequence[str], reading: Reading
) -> Sequence[str | None] | None:
    """The names of columns without a header; None if they cannot be told."""
    index, count = reading["index"], len(found)
    if count == len(features):
        return features
    if index is not None and count == len(columns) + 1 and (index == INDEX or not reading["header"]):
        place = 0 if index == INDEX else int(index)
        return [*columns[:place], None, *columns[place:]]
    if count != len(columns):
        return None
    # All columns but the index, or the features behind an index, which pandas writes where nobody says no. A row or two
    # of whole numbers that are none of 0, 1, ... are not taken for an index.
    how = _counts(found[0])
    like_index = found[0].kind == "text" or how == "counts" or (how is not None and len(found[0].text) > 2)
    features_behind = columns[0] in features and all(column.kind != "text" for column in found[1:])
    return None if like_index and features_behind else columns


def _first(cells: "list[pa.ChunkedArray]") -> list[str]:
    return [column[0].as_py() for column in cells]


def _below(cells: "list[pa.ChunkedArray]") -> list[Column]:
    return [parse(column.slice(1)) for column in cells]


def _named(cells: "list[pa.ChunkedArray]", has_header: bool) -> tuple[list[str], list[Column]]:
    """Names and columns; a first column without a name gets that of pandas."""
    if not has_header:
        return [str(number) for number in range(len(cells))], [parse(column) for column in cells]
    first = _first(cells)
    return [first[0] or INDEX, *first[1:]], _below(cells)


# --- the header ---


def _has_header(first: list[str], below: list[Column], known: Collection[str]) -> tuple[bool | None, str]:
    """Whether the first row holds names, and what to say of it; None if it cannot be told.

    Text above numbers is a name, as is everything in a row of nothing but text. Where each cell is of the kind that
    its column has below, the row is a sample, except for 0, 1, 2, ...: pandas numbers columns so that have no names.
    """
    import pyarrow.compute as compute

    cells = [cell.strip() for cell in first]
    shown = list_names(cell for cell in cells if cell)
    if any(cell in known and not NUMBER.fullmatch(cell) for cell in cells):
        return True, ""
    no_name = not cells[0]  # as that of an index
    numbers = {place: float(cell) for place, cell in enumerate(cells) if NUMBER.fullmatch(cell)}
    text = [place for place, cell in enumerate(cells) if place not in numbers and cell not in NO_NAMES]
    if text and len(text) + no_name == len(cells):
        return True, ""
    whole = all(cells[place].isdecimal() for place in numbers)
    if any(below[place].kind != "text" for place in text):
        if whole:
            return True, f"the first row is the header: {shown}" if numbers else ""
        return None, f"the first row ({shown}) has text above numbers, and numbers that look like values"
    # From here on the row may be a sample: one of its cells is a number, or is true, false or missing.
    again = any(compute.any(compute.equal(below[place].text, first[place])).as_py() for place in text)
    if again or len(numbers) + len(text) + no_name < len(cells) or len(below[0].text) == 0:
        return False, ""  # a text that comes again is a class; a name is not missing
    labels = list(numbers.values())
    by_place = labels == [place - no_name for place in numbers]
    names_rows = no_name and _counts(below[0]) is not None
    if whole and (names_rows or (by_place and (len(labels) > 1 or no_name))):
        return True, f"the first row is the header: {shown}"
    steps = {round(after - before, 9) for before, after in pairwise(labels)}
    regular = len(steps) == 1 and min(steps) > 0 and (len(labels) > 3 or (steps == {1} and len(labels) + len(text) > 2))
    # Labels differ from one another and, other than a sample, from what is below them.
    unlike = whole and len(set(labels)) == len(labels) and (text or _are_unlike(numbers, below))
    if names_rows or regular or unlike:
        return None, f"the first row ({shown}) may be names or a sample"
    return False, ""


def _are_unlike(labels: Mapping[int, float], below: list[Column]) -> bool:
    """Whether each number is beyond all others in its column, or the only one without decimals."""
    columns = {place: below[place].values for place in labels}
    if any(values is None or not np.isfinite(values).any() for values in columns.values()):
        return False
    present = {place: values[np.isfinite(values)] for place, values in columns.items() if values is not None}
    beyond = all(not present[place].min() <= label <= present[place].max() for place, label in labels.items())
    return beyond or all((values % 1 != 0).any() for values in present.values())


# --- the index ---


def _counts(column: Column) -> str | None:
    """`counts` where values are 0, 1, 2, ... or 1, 2, 3, ..., `names` where they all differ; None otherwise.

    Numbers with decimals name rows where they are evenly spaced, as points in time are; others are measured.
    """
    import pyarrow.compute as compute

    values = column.values
    if column.kind == "number" and values is not None and len(values) and values[0] in (0, 1):  # noqa: SIM102
        if np.array_equal(values, np.arange(len(values)) + values[0]):
            return "counts"
    if column.missing or column.kind == "yes_no":
        return None
    if values is not None and (not np.isfinite(values).all() or ((values % 1 != 0).any() and not _even(values))):
        return None
    return "names" if compute.count_distinct(column.text).as_py() == len(column.text) else None


def _even(values: np.ndarray) -> bool:
    """Whether numbers rise by the same step, but for the digits that they were written with."""
    steps = np.diff(values)
    return len(steps) > 1 and bool(steps.min() > 0 and steps.max() - steps.min() < 0.1 * steps.mean())


def _find_index(
    names: list[str], columns: list[Column], rows: int, index: str, has_header: bool, given: str
) -> tuple[int | None, str]:
    """The place of the column to leave out, and what to say of it.

    Raises:
        ConfigError: there is no such column, or a column without a name is no clear index.
    """
    if index not in ("auto", "none"):
        found = find_name(index, names)
        if found is None:
            raise ConfigError(f"data.index={index} is not a column of {given}; {did_you_mean(index, names)}")
        return names.index(found), f"column {found} is left out"
    if index == "none" or rows == 0:
        return None, ""
    how = _counts(columns[0])
    if names[0] == INDEX:
        if how is None:
            raise ConfigError(
                f"{given}: column 1 has no name, and does not number or name the rows; write data.index='{INDEX}' to"
                " leave it out, or data.index=none to train on it"
            )
        return 0, f"column 1 without a name {how} the rows: left out"
    if how == "counts" and rows > 2 and has_header:
        return None, f"column {names[0]} counts the rows and is a feature (data.index={names[0]} leaves it out)"
    if how == "counts" and rows > 2:
        raise ConfigError(
            f"{given}: without a header, column 1 counts the rows; write data.index=0 to leave it out, or"
            " data.index=none to train on it"
        )
    return None, ""


def _check_names(names: list[str], given: str) -> None:
    if "" in names:
        raise ConfigError(f"{given}: column {names.index('') + 1} has no name; name it, or remove it")
    twice = [name for name in dict.fromkeys(names) if names.count(name) > 1]
    if INDEX in twice:
        raise ConfigError(
            f"{given}: column 1 has no name, and pandas has called another one without a name {INDEX}; remove one of"
            " the two (pandas: read_csv(..., index_col=0), to_csv(..., index=False))"
        )
    if twice:
        raise ConfigError(f"{given}: more than one column is called {list_names(twice)}; give each a name of its own")
    if any(re.search(OTHER_QUOTES, name) for name in names):
        raise ConfigError(f"{given}: its names are quoted with ' or \\; {QUOTE}")


def find_name(name: str, names: Collection[str]) -> str | None:
    """The column that is meant: spelled so, or with spaces around it."""
    if name in names:
        return name
    close = [other for other in names if other.strip() == name.strip()]
    return close[0] if len(close) == 1 else None
