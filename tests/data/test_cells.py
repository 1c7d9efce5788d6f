"""Cells of tables: numbers in the notations of several countries, dates, and what is blank."""

import math

import pandas as pd
import pytest

from runner.data.tabular import cells
from runner.data.tabular.columns import decide


def one(text: str, decimal: str) -> float:
    return float(cells.numbers(pd.Series([text], dtype=object), decimal).iloc[0])


@pytest.mark.parametrize(
    ("text", "decimal", "value"),
    [
        ("1,234.5", ".", 1234.5), ("1,234,567", ".", 1234567), ("-.5", ".", -0.5), ("2e3", ".", 2000),
        ("1.234,5", ",", 1234.5), ("1.234.567", ",", 1234567), ("0,5", ",", 0.5), ("12", ",", 12),
        ("1 234,5", ",", 1234.5), ("1\u00a0234.5", ".", 1234.5), ("1'234.50", ".", 1234.5),
        ("$1,200", ".", 1200), ("-$5", ".", -5), ("5 \u20ac", ".", 5), ("12 %", ".", 12), ("(3.5)", ".", -3.5),
        ("\u22124", ".", -4), ("USD 7", ".", 7),
        ("1,23", ".", math.nan), ("12,345.6", ",", math.nan), ("3 apples", ".", math.nan), ("1e400", ".", math.nan),
        ("NA", ".", math.nan), ("--", ".", math.nan),
    ],
)  # fmt: skip
def test_numbers_in_several_notations(text: str, decimal: str, value: float) -> None:
    assert one(text, decimal) == pytest.approx(value, nan_ok=True)


@pytest.mark.parametrize(
    ("texts", "formats"),
    [
        (["2024-05-31", "2024-06-01T08:15:00"], ["ISO8601"]),
        (["31/05/2024", "01/06/2024"], ["%d/%m/%Y"]),
        (["05/31/2024", "06/01/2024"], ["%m/%d/%Y"]),
        (["31.5.2024", "1.6.2024"], ["%d.%m.%Y"]),
        (["31 May 2024", "1 Jun 2024"], ["%d %b %Y"]),
        (["5/31/2024 8:15 PM"], ["%m/%d/%Y %I:%M %p"]),
        (["8:15", "23:59"], ["%H:%M"]),
        (["1-9", "10-19"], []),
        (["A1", "B-2"], []),
        (["12 apples", "3 pears"], []),
    ],
)
def test_dates_in_several_formats(texts: list[str], formats: list[str]) -> None:
    assert cells.find_formats(pd.Series(texts, dtype=object))[0] == formats


@pytest.mark.parametrize("texts", [["soon", ""], [""], [], ["31/05/2024", "2024-05-31"]])
def test_dates_keep_their_type_where_none_can_be_read(texts: list[str]) -> None:
    series = pd.Series(texts, dtype=object, index=range(5, 5 + len(texts)))
    read = cells.dates(series, ["ISO8601"])
    assert read.dtype == "datetime64[us, UTC]" and list(read.index) == list(series.index)
    assert read.notna().tolist() == [text == "2024-05-31" for text in texts]


def test_a_day_that_may_be_a_month_is_said() -> None:
    texts = pd.Series(["01/02/2024", "03/04/2024"], dtype=object)
    assert cells.find_formats(texts) == (["%m/%d/%Y"], True)
    assert "the other way round" in decide("day", texts)[1]


def test_thousands_and_decimals_are_told_apart_by_the_rest_of_the_table() -> None:
    texts = pd.Series(["1,234", "5,678"], dtype=object)
    assert [decide("x", texts, comma)[0].decimal for comma in (False, True)] == [".", ","]
    assert decide("x", pd.Series(["1,234", "5,6"], dtype=object))[0].decimal == ","


@pytest.mark.parametrize(
    ("texts", "kind"),
    [
        (["yes", "No", "Y", ""], "boolean"),
        (["true", "FALSE"], "boolean"),
        (["yes", "yes"], "category"),
        (["N", "S", "E", "W"], "category"),
        (["1", "?", "2.5"], "number"),
        (["a1", "12", "b3"], "category"),
        ([*map(str, range(40)), "unknown", "<5"], "number"),
        ([*map(str, range(8)), *["x"] * 4], "category"),
        (["", "NA"], "category"),
    ],
)
def test_the_kind_of_a_column(texts: list[str], kind: str) -> None:
    assert decide("x", pd.Series(texts, dtype=object))[0].kind == kind
