"""The kind of a column, decided from its cells, and its values as numbers or as texts."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np
import pandas as pd

from . import cells

MOST_STRAY = 0.2  # a column of numbers may have this share of words, which count as blanks
TRIED = 500  # texts that tell whether a column may be one of numbers
FIRST = 1000  # rows that tell most columns from those of a single value
ROWS_NAMED = 20  # texts of which more than this, and more than half, differ name the rows
IDENTIFIER = re.compile(
    r"(^|[ _.-])(id|idx|index|key|uuid|guid|rownames?|row|obs|serial)([ _.-]?(no|nr|num))?$|[a-z]I[dD]$"
)


@dataclass(frozen=True)
class Column:
    """A column of the original table.

    Attributes:
        name: in the header.
        kind: number, boolean, date or category.
        decimal: the decimal separator of its numbers.
        formats: of its dates, for pandas.
        clock: whether its dates have a time of the day.
    """

    name: str
    kind: Literal["number", "boolean", "date", "category"]
    decimal: str = "."
    formats: list[str] = field(default_factory=list)
    clock: bool = False

    def state(self) -> dict[str, Any]:
        """Return the attributes, as JSON."""
        return asdict(self)

    @property
    def numbers(self) -> list[str]:
        """The names of the numbers that it becomes: several for a date, none for a category."""
        if self.kind == "category":
            return []
        parts = ("month", "weekday", *(["hour"] if self.clock else [])) if self.kind == "date" else ()
        return [self.name, *(f"{self.name}.{part}" for part in parts)]

    def values(self, series: pd.Series) -> np.ndarray:
        """Return its numbers, float64 (N, numbers), NaN for blanks and for what cannot be read."""
        if self.kind == "date":
            return _parts(self._dates(series), self.clock)
        if pd.api.types.is_numeric_dtype(series.dtype):
            values = series.astype("float64").to_numpy(dtype=np.float64, na_value=np.nan)
            can_be = np.isin(values, (0, 1)) if self.kind == "boolean" else np.abs(values) <= cells.LARGEST
            return np.where(can_be, values, np.nan)[:, None]
        texts = cells.trimmed(series)
        read = cells.booleans(texts) if self.kind == "boolean" else cells.numbers(texts, self.decimal)
        return read.to_numpy()[:, None]

    def _dates(self, series: pd.Series) -> pd.Series:
        if pd.api.types.is_datetime64_any_dtype(series.dtype):
            return pd.to_datetime(series, utc=True).astype("datetime64[us, UTC]")
        return cells.dates(cells.trimmed(series), self._formats)

    @property
    def _formats(self) -> list[str]:
        """The formats of dates as texts; a column of a table with types has recorded none."""
        return self.formats or [cells.ISO]

    @property
    def expected(self) -> str:
        """What its cells are, as text for a message; empty for a category."""
        if self.kind == "date":
            return f"dates such as {' or '.join(cells.example_date(form, self.clock) for form in self._formats)}"
        number = f"numbers with a decimal {'comma' if self.decimal == ',' else 'point'}"
        return {"number": number, "boolean": "true and false, or yes and no", "category": ""}[self.kind]

    def texts(self, series: pd.Series) -> np.ndarray:
        """Return its categories, texts (N,); a blank is the empty text."""
        texts = cells.trimmed(series)
        return texts.where(~texts.str.lower().isin(cells.BLANK), "").to_numpy(dtype=object)


def _parts(dates: pd.Series, clock: bool) -> np.ndarray:
    """Return days since 1970, the month, the weekday, and the hour."""
    days = (dates - pd.Timestamp(0, tz="UTC").as_unit("us")).dt.total_seconds() / 86400
    parts = [days, dates.dt.month, dates.dt.day_of_week]
    if clock:
        parts.append(dates.dt.hour + dates.dt.minute / 60)
    return np.stack([part.to_numpy(dtype=np.float64, na_value=np.nan) for part in parts], axis=1)


def decide(name: str, series: pd.Series, comma: bool = False) -> tuple[Column, str]:
    """Decide on the kind of a column.

    Args:
        name: of the column.
        series: its cells, texts or a type of pandas.
        comma: whether a comma probably separates decimals, as in other columns of the table.

    Returns:
        The column, and a note on what was guessed, which may be empty.
    """
    if pd.api.types.is_bool_dtype(series.dtype):
        return Column(name, "boolean"), ""
    if pd.api.types.is_numeric_dtype(series.dtype):
        return Column(name, "number"), ""
    if pd.api.types.is_datetime64_any_dtype(series.dtype):
        clock = bool((series.dropna().dt.normalize() != series.dropna()).any())
        return Column(name, "date", clock=clock), ""
    texts = cells.trimmed(series)
    lower = texts.str.lower()
    present = texts[~lower.isin(cells.BLANK_NUMBER)]
    different = pd.Series(present.unique(), dtype=object)
    if len(different) == 0:
        return Column(name, "category"), ""
    words = frozenset(different.str.lower())
    if words <= cells.TRUE | cells.FALSE and words & cells.TRUE and words & cells.FALSE:
        return Column(name, "boolean"), ""
    decimal, values = _best_decimal(different.head(TRIED), comma)
    numbers = values.notna().mean() >= 0.5  # else it cannot become a column of numbers, and the others need no reading
    if numbers and len(different) > TRIED:
        decimal, values = _best_decimal(different, comma)
    stray = different[values.isna()] if numbers else different
    if len(stray) == 0:
        note = (
            ""
            if decimal == "." and pd.to_numeric(different, errors="coerce").notna().all()
            else _marks(different, decimal)
        )
        return Column(name, "number", decimal), f"{name}: {note}" if note else ""
    formats, doubtful = cells.find_formats(different)
    if formats:
        read = cells.dates(different, formats).dropna()
        clock = bool((read.dt.normalize() != read).any())
        turned = ", or the day and the month the other way round" if doubtful else ""
        lost = len(different) - len(read)
        more = f"; {lost} other texts are blanks" if lost else ""
        return Column(
            name, "date", formats=formats, clock=clock
        ), f"{name}: dates ({' or '.join(formats)}{turned}){more}"
    count = int(present.isin(frozenset(stray)).sum())
    if (
        count <= MOST_STRAY * len(present)
        and len(different) - len(stray) > 10
        and len(stray) <= 10 + len(different) // 20
    ):
        words_shown = ", ".join(repr(text) for text in stray[:3])
        return Column(name, "number", decimal), f"{name}: numbers, {count} other cells are blanks ({words_shown})"
    return Column(name, "category"), ""


def _best_decimal(different: pd.Series, comma: bool) -> tuple[str, pd.Series]:
    """Return the decimal separator that reads most cells, and the numbers."""
    point = cells.numbers(different, ".")
    if not different.str.contains(",", regex=False).any() and not (
        comma and different.str.contains(".", regex=False).any()
    ):
        return ".", point
    other = cells.numbers(different, ",")
    better = int(other.notna().sum()) - int(point.notna().sum())
    if better > 0 or (better == 0 and comma):
        return ",", other
    return ".", point


def _marks(different: pd.Series, decimal: str) -> str:
    """Say how numbers are read that have other marks than a decimal point."""
    shown = next(text for text in different if not re.fullmatch(r"[+-]?[\d.]+", text))
    as_number = cells.numbers(pd.Series([shown], dtype=object), decimal).iloc[0]
    return f"{shown!r} is read as {as_number:.10g}"


def has_decimal_comma(series: pd.Series) -> bool:
    """Whether a comma in the cells can only be a decimal separator."""
    if pd.api.types.is_numeric_dtype(series.dtype) or pd.api.types.is_datetime64_any_dtype(series.dtype):
        return False
    texts = pd.Series(cells.trimmed(series).unique(), dtype=object)
    texts = texts[texts.str.contains(",", regex=False)]
    if not len(texts):
        return False
    point, other = cells.numbers(texts, "."), cells.numbers(texts, ",")
    return bool(other.notna().mean() > 0.5 and (other.notna() & point.isna()).any())


def names_rows(series: pd.Series) -> str | None:
    """Describe a column that identifies rows: `counts` for 0, 1, ... or 1, 2, ..., `names` if all cells differ."""
    if len(series) < 2 or series.isna().any() or series.nunique() < len(series):
        return None
    texts = cells.trimmed(series)
    values = pd.to_numeric(texts, errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
    if not np.isfinite(values).all():
        return "names" if not np.isfinite(values).any() or not (texts == "").any() else None
    if (values % 1 != 0).any():
        return None
    steps = np.diff(values)
    return "counts" if values[0] in (0, 1) and bool((steps == 1).all()) else "names"


def why_left_out(column: Column, series: pd.Series) -> str:
    """Say why a column is of no use as a feature; empty if it is."""
    texts = cells.trimmed(series) if column.kind == "category" else None
    if texts is not None:
        present = texts[~texts.str.lower().isin(cells.BLANK)]
        count = present.nunique()
        if count == 0:
            return "no values"
        if count == 1 and len(present) == len(texts):
            return f"{present.iloc[0]!r} in all rows"
        if count > ROWS_NAMED and 2 * count > len(present):
            return f"{count:,} different texts in {len(present):,} rows"
        return ""
    for part in (series.head(FIRST), series):  # in most columns the first values differ
        values = column.values(part)[:, 0]
        present = values[~np.isnan(values)]
        if len(present) > 2 and present.min() != present.max():
            break
    if len(present) == 0:
        return "no values"
    if len(present) == len(values) and present.min() == present.max():
        rounded = ", as far as a 64-bit float tells" if abs(present[0]) >= 2**53 else ""
        return f"{present[0]:g} in all rows{rounded}"
    if IDENTIFIER.search(column.name.strip()) and len(present) > 2 and names_rows(series) is not None:
        return "numbers the rows"
    return ""


def columns_of(state: Sequence[Mapping[str, Any]]) -> list[Column]:
    """Rebuild columns from what `Column.state` returned."""
    return [Column(**one) for one in state]
