"""The rows of a table in a request, as columns."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from runner.data.listing import list_names
from runner.data.table_index import find_name
from runner.runs.server.content import Content
from runner.runs.server.refusal import Refusal

if TYPE_CHECKING:
    import pandas as pd

    from runner.data.tabular.columns import Column
    from runner.data.tabular.encoder import Encoder

Cell = str | float | bool | None
Columns = dict[str, list[Cell]]


def columns_of(content: Content, names: Sequence[str]) -> Columns:
    """Return the cells of the columns that a model takes, by name; others are left out.

    Args:
        content: rows as objects, rows as lists in the order of `columns` (else of `names`), an object of columns, or
            a single row.
        names: of the columns.

    Raises:
        Refusal: it is no table, or lacks a column.
    """
    samples = content.samples
    if isinstance(samples, dict):
        columns = _choose(samples, names)
        if not any(isinstance(value, list) for value in columns.values()):
            columns = {name: [value] for name, value in columns.items()}
    elif isinstance(samples, list) and samples and all(isinstance(row, dict) for row in samples):
        return _of_objects(samples, names)
    elif isinstance(samples, list) and samples:
        rows = samples if all(isinstance(row, list) for row in samples) else [samples]
        given = content.columns or list(names)
        wrong = next((place for place, row in enumerate(rows) if len(row) != len(given)), None)
        if wrong is not None:
            text = f"row {wrong} has {len(rows[wrong])} cells, not {len(given)}: {list_names(given)}"
            raise Refusal(422, f"{text}; send objects that name the columns, or this many cells in this order")
        columns = {name: [row[place] for row in rows] for place, name in enumerate(given)}
    elif isinstance(samples, list):
        raise Refusal(422, "no rows; send at least one")
    else:
        raise Refusal(422, f"not a table; send a list of objects with the columns {list_names(names)}")
    chosen = _choose(columns, names)
    counts = {len(cells) if isinstance(cells, list) else -1 for cells in chosen.values()}
    if counts == {0}:
        raise Refusal(422, "no rows; send at least one")
    if len(counts) > 1 or counts == {-1}:
        raise Refusal(422, "the columns have different numbers of cells; send a list of the same length for each")
    return _checked(chosen)


def names_in(rows: Any) -> list[str]:
    """Return the columns of rows for a model that does not name any: those of the first row, or their numbers.

    Raises:
        Refusal: there are no rows, or they have no cells.
    """
    first = rows[0] if isinstance(rows, list) and rows else None
    if not isinstance(first, list | dict) or not first:
        raise Refusal(422, "no rows with numbers; send a list of rows, each with all numbers of a sample")
    return list(first) if isinstance(first, dict) else [str(place) for place in range(len(first))]


def _of_objects(rows: Sequence[Mapping[str, Any]], names: Sequence[str]) -> Columns:
    columns: Columns = {name: [] for name in names}
    for place, row in enumerate(rows):
        try:
            for name in names:
                columns[name].append(row[name])
        except KeyError:
            chosen = _choose(row, names, f"row {place}: ")
            for name in names:
                del columns[name][place:]
                columns[name].append(chosen[name])
    return _checked(columns)


def _choose(given: Mapping[str, Any], names: Sequence[str], where: str = "") -> dict[str, Any]:
    """Return what is given for each name.

    Raises:
        Refusal: there is nothing for some.
    """
    places = {name: find_name(name, list(given)) for name in names}
    if missing := [name for name, place in places.items() if place is None]:
        columns = f"column{'s' if len(missing) > 1 else ''} {list_names(missing)}"
        has = list_names(list(given)) or "none"
        raise Refusal(422, f"{where}lacks the {columns}, which the model was trained on; it has {has}")
    return {name: given[place] for name, place in places.items() if place is not None}


def _checked(columns: dict[str, Any]) -> Columns:
    """Check that cells are texts, finite numbers, true, false or null.

    Raises:
        Refusal: one is not.
    """
    for name, cells in columns.items():
        for place, cell in enumerate(cells):
            if isinstance(cell, list | dict):
                raise Refusal(422, f"row {place}, column {name}: a cell is a {_kind(cell)}; send a number or a text")
            if isinstance(cell, float) and not np.isfinite(cell):
                raise Refusal(422, f"row {place}, column {name}: the number is not finite; send null for a blank")
    return columns


def _kind(value: Any) -> str:
    return "list" if isinstance(value, list) else "object"


def _is_number(cell: Cell) -> bool:
    return isinstance(cell, int | float) and not isinstance(cell, bool)


def numbers_of(columns: Columns) -> Tensor:
    """Return columns of numbers, float64 (N, columns).

    Raises:
        Refusal: a cell is something else.
    """
    for name, cells in columns.items():
        wrong = next((place for place, cell in enumerate(cells) if not _is_number(cell)), None)
        if wrong is not None:
            what = "blank" if cells[wrong] is None else f"{cells[wrong]!r:.40}, not a number"
            raise Refusal(422, f"row {wrong}, column {name} is {what}; send a number")
    try:
        array = np.array(list(columns.values()), dtype=np.float64)
    except OverflowError as error:
        raise Refusal(422, "a number is too large; send numbers below 1e308") from error
    return torch.from_numpy(np.ascontiguousarray(array.T))


def frame_of(columns: Columns, encoder: "Encoder") -> "pd.DataFrame":
    """Return columns as an encoder reads them: numbers as such, others as texts in the notation of training."""
    import pandas as pd

    kinds = {column.name: column for column in encoder.columns}
    return pd.DataFrame({name: _series(cells, kinds[name]) for name, cells in columns.items()}, copy=False)


def _series(cells: Sequence[Cell], column: "Column") -> "pd.Series":
    import pandas as pd

    if column.kind in ("number", "boolean"):
        if all(cell is None or _is_number(cell) for cell in cells):
            return pd.Series([np.nan if cell is None else _float(cell) for cell in cells], dtype="float64")
        # A column that has texts too: its numbers are written as those of the training table.
        cells = [repr(cell).replace(".", column.decimal) if _is_number(cell) else cell for cell in cells]
    return pd.Series(list(cells), dtype=object)


def _float(cell: Any) -> float:
    try:
        return float(cell)
    except OverflowError as error:
        raise Refusal(422, "a number is too large; send numbers below 1e308") from error


def refuse_unreadable(encoder: "Encoder", unreadable: Mapping[str, Sequence[str]]) -> None:
    """Check that there are no cells in another notation than those of training.

    `runner.predict` counts them as blanks and says so; a program would not read that.

    Raises:
        Refusal: there are some.
    """
    for name, texts in unreadable.items():
        expected = next(column.expected for column in encoder.columns if column.name == name)
        shown = list_names(repr(text) for text in sorted(set(texts)))
        raise Refusal(422, f"column {name}: cannot read {shown}; send {expected}, or null for a blank")
