"""Read a table as it is, text or Parquet, gzipped or not, into cells with names; what had to be guessed is said."""

import gzip
import zlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from runner.data.columns import DATE, OTHER_NOTATION, Column
from runner.data.listing import list_names
from runner.data.named_path import NamedPath
from runner.data.source import names_of
from runner.data.table_file import guess_cells, guess_large, read_bytes
from runner.data.table_header import detect_header
from runner.data.table_index import KEY as INDEX_KEY
from runner.data.table_index import find_name
from runner.errors import ConfigError, Problem, did_you_mean, first_line

if TYPE_CHECKING:
    import pandas as pd

GZIP, PARQUET = b"\x1f\x8b", b"PAR1"
UTF_8, UTF_16 = b"\xef\xbb\xbf", (b"\xff\xfe", b"\xfe\xff")
UNNAMED = "Unnamed: {}"
"""The name of a column without one, as in pandas."""

Header = bool | Literal["auto"] | None


@dataclass(frozen=True)
class Frame:
    """The cells of a table.

    Attributes:
        cells: texts, or types of Parquet; each column has a name of its own.
        header: whether the table has names; without them columns are called 0, 1, ...
        unnamed: whether the first column has no name in a table that has others.
        comma: whether cells are separated by semicolons, as where the comma separates decimals.
        notes: short phrases about guesses.
        plain: names of columns of numbers, float64, none of which is missing, or larger than `cells.LARGEST`.
    """

    cells: "pd.DataFrame"
    header: bool
    unnamed: bool
    comma: bool
    notes: Sequence[str]
    plain: Collection[str] = ()


def read_frame(file: NamedPath, header: Header = None, known: Collection[str] = ()) -> Frame:
    """Read a table.

    Args:
        file: text with commas, semicolons, tabs, bars or spaces, in UTF-8, UTF-16 or Windows-1252; or Parquet; gzipped
            or not.
        header: whether the first row has names; `auto`, or None, detects it.
        known: names that a header has.

    Raises:
        ConfigError: it is not a table.
    """
    read = guess_large(file)
    if read is None:
        data = _unpack(read_bytes(file), file)
        if data.startswith(PARQUET):
            return _read_parquet(data, file)
        utf_8, guesses = _decode(data, file)
        read = guess_cells(utf_8, file)
    else:
        guesses = []
    cells, delimiter, more = read
    notes = [*guesses, *more]
    has_header = header
    if has_header in (None, "auto") and _begins_with_values(cells.head):
        has_header = False
    elif has_header in (None, "auto"):
        has_header, note = detect_header(cells.head[0], cells.below, known)
        if has_header is None:
            has_header, note = True, f"{note}: it is taken as the header (data.header=false if it is a sample)"
        notes += [note] if note else []
    import pandas as pd

    from runner.data.tabular.cells import LARGEST

    first, columns = cells.head[0], cells.below if has_header else cells.with_first()
    width = len(first)
    names, more = _names(first) if has_header else ([str(place) for place in range(width)], [])
    notes += more if has_header else [f"no header: columns are called 0 to {width - 1}"]
    series: dict[str, pd.Series] = {}
    plain: set[str] = set()
    for name in names:
        column = columns.pop(0)  # so that a column is in memory once
        series[name] = _series(column)
        if column.kind == "number" and series[name].dtype == float and not column.missing and column.largest <= LARGEST:
            plain.add(name)
    frame = pd.DataFrame(series, copy=False)
    if has_header and not first[-1].strip() and frame[names[-1]].map(lambda cell: cell == "").all():
        frame, notes = (
            frame.drop(columns=names[-1]),
            [*notes, "the rows end with a delimiter: the empty last column is left out"],
        )
    unnamed = bool(has_header) and not first[0].strip()
    return Frame(frame, bool(has_header), unnamed, delimiter == ";", notes, plain)


def _unpack(data: bytes, file: NamedPath) -> bytes:
    """Return the content of a gzip file, or of another one as it is."""
    if not data.startswith(GZIP):
        return data
    try:
        return gzip.decompress(data)
    except (OSError, EOFError, zlib.error) as error:
        text = f"not a whole gzip file ({first_line(error)})"
        raise ConfigError(file.problem(text, "download or pack it again")) from error


def _series(column: Column) -> "pd.Series":
    """Return plain numbers as such, and other cells as texts."""
    import pandas as pd

    from runner.data.tabular.cells import LARGEST, as_numbers

    values = column.values
    if column.kind == "number" and values is not None and column.missing < len(values) and not _has_minus_zero(values):
        if column.largest > LARGEST:
            values = np.where(np.abs(values) > LARGEST, np.nan, values)
        return pd.Series(values, copy=False)
    texts = pd.Series(column.text.to_pylist(), dtype=object)
    numbers = as_numbers(texts)
    return texts if numbers is None else numbers


def _has_minus_zero(values: np.ndarray) -> bool:
    """Whether all values are whole, and one is written -0, which pandas reads as 0 in such a column."""
    with np.errstate(invalid="ignore"):  # of infinity
        if (values[:1000] % 1 != 0).any():  # most columns of decimals are recognized here
            return False
        zeros = values == 0
        return bool(zeros.any() and np.signbit(values[zeros]).any() and not (values % 1 != 0).any())


def _begins_with_values(head: list[list[str]]) -> bool:
    """Whether the first row has a date, or a number with other marks than a decimal point, and the second one too."""
    pairs = [[cell.strip() for cell in pair] for pair in zip(*head, strict=True)]
    return len(head) == 2 and any(
        any(all(map(mark.fullmatch, pair)) for mark in (OTHER_NOTATION, DATE)) for pair in pairs
    )


def _decode(data: bytes, file: NamedPath) -> tuple[bytes, list[str]]:
    """Return text as UTF-8, and a note if its encoding was guessed."""
    if data.startswith(UTF_16):
        try:
            return data.decode("utf-16").encode(), []
        except UnicodeDecodeError as error:
            raise ConfigError(file.problem("not UTF-16 text, as its first bytes say", "save it as UTF-8")) from error
    data = data.removeprefix(UTF_8)
    try:
        data.decode()
    except UnicodeDecodeError:
        if b"\0" in data:
            return data, []  # no text, which is reported
        return data.decode("cp1252", errors="replace").encode(), ["not UTF-8: read as Windows-1252"]
    return data, []


def _names(first: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return a name for each column, and notes about those that were made up."""
    names, taken, twice = list[str](), set[str](), list[str]()
    for place, cell in enumerate(first):
        wanted = cell.strip() or UNNAMED.format(place)
        name, number = wanted, 1
        while name in taken:
            name, number = f"{wanted}.{number}", number + 1
        twice += [name] if name != wanted else []
        taken.add(name)
        names.append(name)
    notes = [f"columns of the same name are called {list_names(twice)}"] if twice else []
    lacking = [name for place, (name, cell) in enumerate(zip(names, first, strict=True)) if place and not cell.strip()]
    return names, notes + ([f"columns without a name are called {list_names(lacking)}"] if lacking else [])


def _read_parquet(data: bytes, file: NamedPath) -> Frame:
    import pandas as pd
    import pyarrow as pa
    import pyarrow.parquet as parquet

    try:
        table = parquet.read_table(pa.BufferReader(data), use_threads=False)
    except (pa.ArrowException, OSError) as error:
        raise ConfigError(file.problem(f"not a whole Parquet file ({first_line(error)})", "write it again")) from error
    if table.num_columns < 2:
        raise ConfigError(file.problem("only one column", "give it features and a target"))
    if nested := [one.name for one in table.schema if pa.types.is_nested(one.type)]:
        text = f"lists or structures in {list_names(nested)}"
        raise ConfigError(file.problem(text, "give each value a column of its own, or drop these columns"))
    index = [name for name in table.column_names if name.startswith("__index_level_")]  # pandas writes it last
    table = table.drop_columns(index)
    names, notes = _names(table.column_names)
    cells = table.rename_columns(names).to_pandas(ignore_metadata=True, use_threads=False)
    for name in cells.columns[cells.dtypes.map(pd.api.types.is_timedelta64_dtype)]:
        cells[name] = cells[name].dt.total_seconds()
    notes += ["the index of pandas is left out"] if index else []
    return Frame(cells, True, False, False, notes)


def find_index(frame: Frame, index: str | int | None, file: NamedPath) -> tuple[str | None, str]:
    """Find the column that numbers or names the rows, to leave it out.

    Args:
        frame: the table.
        index: `data.index`: a name, `none`, or `auto` (None): a first column without a name, or one that counts the
            rows of a table without a header.
        file: of the table.

    Returns:
        Its name, or None, and a note, which may be empty.

    Raises:
        ConfigError: `index` is not a column.
    """
    from runner.data.tabular.columns import names_rows

    names = list(frame.cells)
    if index not in (None, "auto", "none"):
        name = find_name(str(index), names)
        if name is None:
            text = f"{INDEX_KEY}={index} is not a column of {file.value}"
            raise ConfigError(Problem(INDEX_KEY, text, did_you_mean(str(index), names), topic="unknown"))
        return name, f"column {name} is left out"
    if index == "none" or len(frame.cells) < 3 or len(names) < 2 or (frame.header and not frame.unnamed):
        return None, ""
    how = names_rows(frame.cells[names[0]])
    if frame.unnamed and how is not None:
        return names[0], f"column 1 without a name {how} the rows: left out"
    if frame.unnamed:
        return None, f"column 1 has no name, and is a feature ({INDEX_KEY}='{names[0]}' leaves it out)"
    if how == "counts":
        return names[0], f"column 0 counts the rows: left out ({INDEX_KEY}=none keeps it)"
    return None, ""


def read_new(
    file: NamedPath, names: Sequence[str], header: bool, width: int, target: str | list[str]
) -> "pd.DataFrame":
    """Read a table of new samples: the columns that a model takes, by their names.

    Args:
        file: the table; it may have other columns too.
        names: of the columns that the model takes.
        header: whether the training table had names; without them columns are found by their positions.
        width: the number of columns of the training table.
        target: the column that is predicted, or a list of several, which may be missing.

    Raises:
        ConfigError: a column is missing, or there are no rows.
    """
    cells = read_frame(file, None if header else False, names).cells
    if not header:
        cells = read_frame(file, True).cells if _begins_with_names(cells) else cells
        columns = [str(place) for place in range(width)]
        without = [name for name in columns if name not in names_of(target)]
        fitting = next((one for one in (columns, without) if len(one) == cells.shape[1]), None)
        if fitting is None:
            text = f"{cells.shape[1]} columns, the training table had {width}"
            raise ConfigError(file.problem(text, "give it the same columns, with or without the target", topic="shape"))
        cells = cells.set_axis(fitting, axis=1)
    places = {name: find_name(name, list(cells)) for name in names}
    if lacking := [name for name, place in places.items() if place is None]:
        text = f"lacks the columns {list_names(lacking)}, which the model was trained on; it has {list_names(cells)}"
        raise ConfigError(file.problem(text, "name the columns as in the training table", topic="missing"))
    if len(cells) == 0:
        raise ConfigError(file.problem("no samples, only a header", "add at least one row"))
    import pandas as pd

    return pd.DataFrame({name: cells[place] for name, place in places.items()})


def _begins_with_names(cells: "pd.DataFrame") -> bool:
    """Whether a table read without names begins with some: no first cell is a number, and below one are numbers."""
    from runner.data.tabular.cells import as_numbers

    columns = [column for _, column in cells.items()]
    if any(column.dtype != object or as_numbers(column[:1]) is not None for column in columns):
        return False
    return any(as_numbers(column[1:]) is not None for column in columns)
