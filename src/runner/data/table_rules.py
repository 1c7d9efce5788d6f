"""What a table's cells mean: one set of rules for training and for new samples.

The rules say whether the first row holds names, which column numbers or names the rows, what each column holds, and
whether the target is classes or values. What is guessed becomes a note; what cannot be told is an error that names
the key which decides it.
"""

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypedDict

import numpy as np

from runner.data.table_file import QUOTE, read_cells
from runner.errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    import pyarrow as pa

MISSING = ("", "NA", "N/A", "n/a", "NaN", "nan", "-nan", "-NaN", "NULL", "null", "None", "<NA>", "#N/A", "#NA")
"""Words that stand for a missing value among numbers. In a column of text only an empty cell is missing."""
YES, NO = ("True", "TRUE", "true"), ("False", "FALSE", "false")
NO_NAMES = (*MISSING, *YES, *NO, "?", "-", ".", "*")
"""Words that no column is called."""
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
INDEX = "Unnamed: 0"
"""How a first column without a name is called, as pandas does."""
EXACT = 2**53  # beyond it float64 leaves out whole numbers
LARGEST = float(np.finfo(np.float32).max)
MOST_CLASSES = 20
NAMES_SHOWN = 5

Takes = Literal["classes", "values", "either"]
TargetType = Literal["auto", "category", "number"]


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
    if index is None:
        return columns if count == len(columns) else None
    if count == len(columns) + 1 and (index == INDEX or not reading["header"]):
        place = 0 if index == INDEX else int(index)
        return [*columns[:place], None, *columns[place:]]
    # As many as all columns but the index, or as the features and an index: the latter if the first one is like one.
    like_index = found[0].kind == "text" or _counts(found[0]) == "counts"
    return columns if count == len(columns) and not like_index else None


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


def _has_decimals(column: Column) -> bool:
    values = column.values
    return values is not None and bool((values[np.isfinite(values)] % 1 != 0).any())


# --- the index ---


def _counts(column: Column) -> str | None:
    """`counts` where values are 0, 1, 2, ... or 1, 2, 3, ..., `names` where they all differ; None otherwise."""
    import pyarrow.compute as compute

    values = column.values
    if column.kind == "number" and values is not None and len(values) and values[0] in (0, 1):  # noqa: SIM102
        if np.array_equal(values, np.arange(len(values)) + values[0]):
            return "counts"
    if column.missing or column.kind == "yes_no":
        return None
    return "names" if compute.count_distinct(column.text).as_py() == len(column.text) else None


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
    if twice := [name for name in dict.fromkeys(names) if names.count(name) > 1]:
        raise ConfigError(f"{given}: more than one column is called {list_names(twice)}; give each a name of its own")
    if any(re.search(OTHER_QUOTES, name) for name in names):
        raise ConfigError(f"{given}: its names are quoted with ' or \\; {QUOTE}")


def find_name(name: str, names: Collection[str]) -> str | None:
    """The column that is meant: spelled so, or with spaces around it."""
    if name in names:
        return name
    close = [other for other in names if other.strip() == name.strip()]
    return close[0] if len(close) == 1 else None


# --- features ---


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
                cells = (cell.strip() for cell in column.text.to_pylist())
                cell = next((cell for cell in cells if cell not in MISSING and not NUMBER.fullmatch(cell)), "")
                text.append(f"{name} ({cell!r})")
                notation = notation or OTHER_NOTATION.fullmatch(cell) is not None
            continue
        with np.errstate(invalid="ignore"):
            size = np.abs(column.values)
        if count := int((size > LARGEST).sum()):
            infinite.append(f"{name} ({count})")
        elif name != target and (lost := _inexact(column, size)):
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


def _inexact(column: Column, size: np.ndarray) -> str:
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


# --- the target ---


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
    if lost := _inexact(column, np.abs(column.values)):
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
    count = compute.count_distinct(column.text).as_py() if zeros else len(np.unique(values))
    if count > MOST_CLASSES or count * 10 > rows:
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

    cells = [cell.strip() for cell in compute.unique(column.text).to_pylist()]
    rows, count = len(column.text), len(cells)
    decide = "write data.target_type=category if they are classes"
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


def _first_text(column: Column) -> str:
    cells = (cell.strip() for cell in column.text.to_pylist())
    return next((cell for cell in cells if cell not in MISSING and not NUMBER.fullmatch(cell)), "")


def _matching(column: Column, pattern: str) -> str:
    return next(cell for cell in column.text.to_pylist() if re.search(pattern, cell))
