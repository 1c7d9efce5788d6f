"""The layout of a table: header, index and names, by the same rules for training and for new samples.

A guess becomes a note. A layout that is ambiguous is an error, which names the key that decides.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypedDict

import numpy as np

from runner.data.columns import NUMBER, OTHER_QUOTES, Column
from runner.data.listing import list_names
from runner.data.named_path import NamedPath
from runner.data.rows import as_rows
from runner.data.table_cells import QUOTE
from runner.data.table_file import read_cells
from runner.data.table_header import detect_header, parse_columns
from runner.data.table_index import INDEX, find_index, find_name, names_rows
from runner.errors import ConfigError, Problem


class Reading(TypedDict):
    """The layout of a training table; new tables for the same model are read by it.

    Attributes:
        header: whether the first row has names; without a header columns are called 0, 1, ...
        index: the column that was left out; None if none was.
    """

    header: bool
    index: str | None


@dataclass(frozen=True)
class Table:
    """The columns of a table.

    Attributes:
        columns: by their names, in the order of the file, without the index.
        rows: the number of rows below the header.
        reading: the layout.
        notes: short phrases about guesses.
    """

    columns: Mapping[str, Column]
    rows: int
    reading: Reading
    notes: Sequence[str]

    def numbers(self, names: Sequence[str], chosen: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Return the values of some columns, float64 (rows, columns), of each choice of rows, bool (N,)."""
        columns = [values for name in names if (values := self.columns[name].values) is not None]
        return as_rows(columns, chosen)


def read_table(
    file: NamedPath,
    index: str | int | None = None,
    header: bool | Literal["auto"] | None = None,
    known: Collection[str] = (),
) -> Table:
    """Read a table.

    Args:
        file: as `read_cells` reads it.
        index: the column to leave out. `none` leaves out none; `auto`, or None, a first column without a name whose
            values are all different.
        header: whether the first row has names. `auto`, or None, detects it.
        known: names that the header has, if there is one.

    Raises:
        ConfigError: the file is not a table, or its layout is ambiguous.
    """
    cells = read_cells(file)
    notes = []
    if header in (None, "auto"):
        has_header, note = detect_header(cells.head[0], cells.below, known)
        if has_header is None:
            suggestion = "write data.header=true or data.header=false"
            raise ConfigError(Problem("data.header", f"{file}: {note}", suggestion, topic="data"))
        notes += [note] if note else []
    else:
        has_header = bool(header)
    names, columns = parse_columns(cells, has_header)
    if not has_header:
        notes.append(f"no header: columns are called 0 to {len(names) - 1}")
    rows = cells.rows + (not has_header)
    place, note = find_index(names, columns, rows, "auto" if index is None else str(index), has_header, file)
    notes += [note] if note else []
    left_out = None if place is None else names[place]
    others = {name: column for name, column in zip(names, columns, strict=True) if name != left_out}
    _check_names(names, file)
    return Table(others, rows, {"header": has_header, "index": left_out}, notes)


def _check_names(names: list[str], file: NamedPath) -> None:
    """Check that every column has a name of its own."""
    if "" in names:
        raise ConfigError(file.problem(f"column {names.index('') + 1} has no name", "name it, or remove it"))
    duplicates = [name for name in dict.fromkeys(names) if names.count(name) > 1]
    if INDEX in duplicates:
        text = f"column 1 has no name, and pandas has named another one {INDEX}"
        how = "remove one of the two (pandas: read_csv(..., index_col=0), to_csv(..., index=False))"
        raise ConfigError(file.problem(text, how))
    if duplicates:
        text = f"more than one column is called {list_names(duplicates)}"
        raise ConfigError(file.problem(text, "give each column a different name"))
    if any(re.search(OTHER_QUOTES, name) for name in names):
        raise ConfigError(file.problem("names are quoted with ' or \\", QUOTE))


def read_new(file: NamedPath, features: Sequence[str], columns: Sequence[str], reading: Reading) -> Table:
    """Read a table of new samples for a model that was trained on another table.

    Args:
        file: as `read_cells` reads it.
        features: names of the columns that the model takes.
        columns: names of all columns of the training table but its index.
        reading: the layout of the training table.

    Returns:
        The features. With a header they are found by name, in any order. Without one they are found by position, in a
        table of the features alone, or of all columns of the training table.

    Raises:
        ConfigError: it has other columns, or its layout is ambiguous.
    """
    cells = read_cells(file)
    first = cells.head[0]
    numbers = all(NUMBER.fullmatch(cell.strip()) for cell in first)
    has_header: bool | None = reading["header"] and {*features} <= {*first}
    if not has_header and (reading["header"] or not numbers):
        has_header, _ = detect_header(first, cells.below, columns)
    names, parsed = parse_columns(cells, bool(has_header))
    if has_header:
        places = _places_by_name(file, names, features)
    else:
        layout = _guess_names(parsed, features, columns, reading)
        if layout is None:
            text = f"{len(names)} columns, the model was trained on {len(features)}: {list_names(features)}"
            raise ConfigError(file.problem(text, "write these names into the first row", topic="shape"))
        places = {name: layout.index(name) for name in features}
    rows = cells.rows + (not has_header)
    return Table({name: parsed[place] for name, place in places.items()}, rows, reading, ())


def _places_by_name(file: NamedPath, names: list[str], features: Sequence[str]) -> dict[str, int]:
    """Return the position of each feature."""
    places = {name: names.index(column) for name in features if (column := find_name(name, names)) is not None}
    if lacking := [name for name in features if name not in places]:
        text = f"lacks the columns {list_names(lacking)}, which the model was trained on; it has {list_names(names)}"
        raise ConfigError(file.problem(text, "name the columns as in the training table", topic="missing"))
    if duplicates := [name for name in features if names.count(name) > 1]:
        text = f"more than one column is called {list_names(duplicates)}"
        raise ConfigError(file.problem(text, "give each column a different name"))
    return places


def _guess_names(
    parsed: list[Column], features: Sequence[str], columns: Sequence[str], reading: Reading
) -> Sequence[str | None] | None:
    """Guess the names of columns without a header, None for the index; None if they are ambiguous."""
    index, count = reading["index"], len(parsed)
    if count == len(features):
        return features
    if index is not None and count == len(columns) + 1 and (index == INDEX or not reading["header"]):
        place = 0 if index == INDEX else int(index)
        return [*columns[:place], None, *columns[place:]]
    if count != len(columns):
        return None
    # Either all columns but the index, or an index, which pandas writes by default, and the features. One or two rows
    # of integers that are not 0, 1, ... are not an index.
    how = names_rows(parsed[0])
    like_index = parsed[0].kind == "text" or how == "counts" or (how is not None and len(parsed[0].text) > 2)
    features_behind = columns[0] in features and all(column.kind != "text" for column in parsed[1:])
    return None if like_index and features_behind else columns
