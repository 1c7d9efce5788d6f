"""Cells as text become numbers, dates, or true and false; the notation is that of a column."""

import re

import numpy as np
import pandas as pd

BLANK = frozenset({"", "na", "n/a", "n.a.", "nan", "-nan", "null", "<na>", "#n/a", "#na", "#value!", "#div/0!", "?"})
"""Words for a missing value, in lower case."""
BLANK_NUMBER = BLANK | {"none", "nil", "-", "--", ".", "..", "...", "missing", "unknown", "inf", "-inf", "+inf", "n/d"}
"""Words for a missing value in a column of numbers, dates, or true and false. Among texts they are categories."""

TRUE, FALSE = frozenset({"true", "t", "yes", "y"}), frozenset({"false", "f", "no", "n"})

MONEY = r"[$€£¥₹₽]|USD|EUR|GBP|CHF|JPY"
SPACES = " '\u2019\u00a0\u202f\u2009"  # between thousands
EXPONENT = r"([eE][+-]?\d+)?"
POINT = re.compile(rf"[+-]?(\d{{1,3}}(,\d{{3}})+(\.\d*)?|\d+\.?\d*|\.\d+){EXPONENT}", re.ASCII)
COMMA = re.compile(rf"[+-]?(\d{{1,3}}(\.\d{{3}})+(,\d*)?|\d+,?\d*|,\d+){EXPONENT}", re.ASCII)
THOUSANDS = re.compile(r"[+-]?[1-9]\d{0,2}([,.]\d{3})+", re.ASCII)
"""Numbers whose comma or point may separate thousands or decimals."""

LARGEST = 1e100  # a variance of larger numbers is infinite

TIMES = ("%H:%M", "%H:%M:%S")
DAYS = (
    "%Y/%m/%d", "%m/%d/%Y", "%d/%m/%Y", "%m/%d/%y", "%d/%m/%y", "%d.%m.%Y", "%d.%m.%y", "%d-%m-%Y", "%m-%d-%Y",
    "%d-%m-%y", "%d-%b-%Y", "%d-%b-%y", "%d %b %Y", "%d %B %Y", "%b %d, %Y", "%B %d, %Y", "%b %d %Y", "%B %d %Y",
    "%b %Y", "%B %Y", "%b-%Y", "%b-%y", "%Y.%m.%d",
)  # fmt: skip
CLOCKS = (" %H:%M", " %H:%M:%S", " %I:%M %p", " %I:%M:%S %p")
ISO = "ISO8601"  # pandas' name for all forms of 2024-05-31T08:15:00Z
LIKE_A_DATE = re.compile(r"(?=.*\d).*(\d[-/.:]\d|[a-z]{3,}[ ,.-]*\d|\d[ .-]*[a-z]{3,})", re.IGNORECASE)


def trimmed(cells: pd.Series) -> pd.Series:
    """Return texts without spaces around them; a missing value is the empty text."""
    texts = cells.astype(object).where(cells.notna(), "")
    if pd.api.types.infer_dtype(texts, skipna=False) == "string":  # a million cells take 0.2 s, and 1 s one by one
        return texts.str.strip()
    return texts.map(lambda cell: cell.decode(errors="replace") if isinstance(cell, bytes) else str(cell)).str.strip()


def numbers(texts: pd.Series, decimal: str) -> pd.Series:
    """Read numbers: with thousands separators, a currency, a percent sign, or in brackets for negative ones.

    Args:
        texts: trimmed.
        decimal: `.` or `,`.

    Returns:
        float64, NaN for what is no number.
    """
    values = (
        pd.to_numeric(texts, errors="coerce").astype("float64") if decimal == "." else pd.Series(np.nan, texts.index)
    )
    rest = texts[values.isna() & ~texts.str.lower().isin(BLANK_NUMBER)]
    if len(rest):
        different = pd.Series(rest.unique(), dtype=object)
        read = dict(zip(different, (_number(text, decimal) for text in different), strict=True))
        values = values.copy()
        values[rest.index] = rest.map(read).astype("float64")
    return values.where(values.abs() <= LARGEST)


def as_numbers(texts: pd.Series) -> pd.Series | None:
    """Read a column all of whose cells are plain numbers or blanks; None for any other."""
    values = pd.to_numeric(texts, errors="coerce").astype("float64")
    rest = texts[values.isna()]
    if len(rest) == len(texts) or not trimmed(rest).str.lower().isin(BLANK_NUMBER).all():
        return None
    return values.where(values.abs() <= LARGEST)


def _number(text: str, decimal: str) -> float:
    bare = re.sub(MONEY, "", text.replace("\u2212", "-")).strip().removesuffix("%").strip()
    if re.fullmatch(r"\(.+\)", bare):
        bare = f"-{bare[1:-1]}"
    bare = re.sub(rf"(?<=\d)[{SPACES}](?=\d{{3}}(\D|$))", "", re.sub(r"^([+-])\s+", r"\1", bare))
    if not (POINT if decimal == "." else COMMA).fullmatch(bare):
        return np.nan
    return float(bare.replace(",", "") if decimal == "." else bare.replace(".", "").replace(",", "."))


def booleans(texts: pd.Series) -> pd.Series:
    """Read true and false, also as yes and no, in any case: 1, 0, or NaN for other words."""
    lower = texts.str.lower()
    return pd.Series(np.where(lower.isin(TRUE), 1.0, np.where(lower.isin(FALSE), 0.0, np.nan)), texts.index)


def dates(texts: pd.Series, formats: list[str]) -> pd.Series:
    """Read dates: by the first of the formats that fits each, NaT for others; in UTC."""
    places, unique = pd.factorize(texts)
    different = pd.Series(unique, dtype=object)
    read = pd.Series(pd.NaT, different.index, dtype="datetime64[us, UTC]")
    for one in formats:
        rest = read.isna() & ~different.str.lower().isin(BLANK_NUMBER)
        read[rest] = _dates(different[rest], one)
    return read.take(places).set_axis(texts.index)  # not `map`, which forgets the time zone if no date can be read


def _dates(texts: pd.Series, form: str) -> pd.Series:
    return pd.to_datetime(texts, format=form, errors="coerce", utc=True).astype("datetime64[us, UTC]")


def example_date(form: str, clock: bool) -> str:
    """Write a date in a format: `31.05.2024 (%d.%m.%Y)`."""
    shown = "%Y-%m-%d %H:%M:%S" if clock else "%Y-%m-%d"
    return f"{pd.Timestamp(2024, 5, 31, 8, 15).strftime(shown if form == ISO else form)} ({form})"


def find_formats(texts: pd.Series) -> tuple[list[str], bool]:
    """Find the formats of dates: one, or a few if the column mixes them.

    Args:
        texts: the different ones, without blanks.

    Returns:
        The formats, none if these are no dates; and whether day and month might be the other way round.
    """
    if not len(texts) or texts.head(100).map(lambda text: bool(LIKE_A_DATE.match(text))).mean() < 0.9:
        return [], False
    rest, formats, doubtful = texts, list[str](), False
    candidates = [ISO, *DAYS, *(day + clock for day in DAYS for clock in CLOCKS), *TIMES]
    while len(rest) and len(formats) < 4:
        sample = rest.head(200)
        counts = {form: int(_dates(sample, form).notna().sum()) for form in candidates if form not in formats}
        most = max(counts.values())
        best = [form for form, count in counts.items() if count == most]
        if most * 20 < len(sample):
            break
        if len(best) > 1 and len(rest) > len(sample):  # the others decide whether the day or the month comes first
            counts = {form: int(_dates(rest, form).notna().sum()) for form in best}
            best = [form for form, count in counts.items() if count == max(counts.values())]
        doubtful = doubtful or (_turned(best[0]) != best[0] and _turned(best[0]) in best)
        formats.append(best[0])
        candidates = [form for form in candidates if form != _turned(best[0])]
        rest = rest[_dates(rest, best[0]).isna()]
    return (formats, doubtful) if len(rest) * 20 <= len(texts) else ([], False)


def _turned(form: str) -> str:
    """Return the format with day and month exchanged."""
    return form.replace("%m", "%_").replace("%d", "%m").replace("%_", "%d")
