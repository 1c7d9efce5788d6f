"""Tables as they are found: what is in them, and what `data=table` is to make of it."""

from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Awkward:
    """A table.

    Attributes:
        data: the bytes of its file.
        kinds: of the features that are used, by name.
        target: `number`, or the names of the classes.
        said: words that the notes must have.
    """

    data: bytes
    kinds: dict[str, str]
    target: str | list[str]
    said: list[str] = field(default_factory=list)


def rows(write: Callable[[int], str], header: str = "", count: int = 60, end: str = "\n") -> bytes:
    lines = ([header] if header else []) + [write(number) for number in range(count)]
    return (end.join(lines) + end).encode()


def number(value: int) -> int:
    """A number that follows no order."""
    return value * 7919 % 101


AWKWARD = {
    "of R: row names, NA, factors": Awkward(
        rows(
            lambda i: f'"{i + 1}",{number(i)},{"NA" if i % 9 == 0 else i % 5},"{"abc"[i % 3]}","{"mf"[i % 2]}"',
            '"","size","rank","group","sex"',
        ),
        {"size": "number", "rank": "number", "group": "category"},
        ["f", "m"],
        ["column 1 without a name"],
    ),
    "of R's write.table: one name less than cells": Awkward(
        rows(lambda i: f'"r{i}" {number(i)} "{"ab"[i % 2]}" {i / 7:.3f}'.replace(" ", "\t"), '"size"\t"group"\t"y"'),
        {"size": "number", "group": "category"},
        "number",
    ),
    "decimal commas between semicolons": Awkward(
        rows(lambda i: f"{number(i)},5;1.{i:03d},25;{i % 2};{i},{i % 10}", "breite;höhe;art;preis"),
        {"breite": "number", "höhe": "number", "art": "number"},
        "number",
    ),
    "decimal commas without a header": Awkward(
        rows(lambda i: f"{number(i)},5;{i * 3 % 7},25;{i},{i % 10}"),
        {"0": "number", "1": "number"},
        "number",
        ["no header"],
    ),
    "money, percent, thousands": Awkward(
        rows(
            lambda i: f'"$1,{i:03d}.50",{number(i)}%,"({i})",{i} 000 €,"{"low" if i < 30 else "high"}"',
            "price,share,balance,sum,level",
        ),
        {"price": "number", "share": "number", "balance": "number", "sum": "number"},
        ["high", "low"],
        ["is read as 1000.5"],
    ),
    "dates in several formats": Awkward(
        rows(
            lambda i: (
                f"2024-{i % 12 + 1:02d}-{i % 28 + 1:02d},{i % 28 + 1:02d}.{i % 12 + 1:02d}.2023,"
                f"2024-01-{i % 28 + 1:02d} {i % 24:02d}:15:00,{i}.5"
            ),
            "iso,german,stamp,y",
        ),
        {"iso": "date", "german": "date", "stamp": "date"},
        "number",
        ["%d.%m.%Y"],
    ),
    "one column of dates in two formats": Awkward(
        rows(lambda i: f"{'Jan' if i % 2 else 'Feb'} {i % 28 + 1} 2024,{i % 3},{'ab'[i % 2]}", "when,x,y")
        + rows(lambda i: f"2024-03-{i % 28 + 1:02d},{i % 3},{'ab'[i % 2]}", count=20),
        {"when": "date", "x": "number"},
        ["a", "b"],
    ),
    "true and false in several spellings": Awkward(
        rows(
            lambda i: f"{number(i)},{['Yes', 'no', 'Y', 'N', ''][i % 5]},{['TRUE', 'false', 'True'][i % 3]}", "x,ok,y"
        ),
        {"x": "number", "ok": "boolean"},
        ["false", "true"],
    ),
    "words among numbers": Awkward(
        rows(lambda i: f"{'unknown' if i % 20 == 3 else '<5' if i % 30 == 4 else number(i)},{i % 4},{i}.25", "age,x,y"),
        {"age": "number", "x": "number"},
        "number",
        ["age: numbers", "blanks"],
    ),
    "useless columns": Awkward(
        rows(
            lambda i: f"{i + 100},name {i},same,,{number(i)},{number(i)},{i % 3},{'xyz'[i % 3]}",
            "customer_id,full name,constant,empty,x,x,,kind",
        ),
        {"x": "number", "x.1": "number", "Unnamed: 6": "number"},
        ["x", "y", "z"],
        ["customer_id", "full name", "constant", "empty", "x.1", "Unnamed: 6"],
    ),
    "quotes, newlines, unicode, mixed line endings": Awkward(
        rows(lambda i: f'"a ""b""\nc{i % 2}",Zürich{i % 3},{number(i)},東{i % 2}', "note,Stadt,π,都", end="\r\n")
        + b'"a ""b""\nc0",Bern,4,\xe6\x9d\xb10\n',
        {"note": "category", "Stadt": "category", "π": "number"},
        ["東0", "東1"],
    ),
    "Windows-1252": Awkward(
        rows(lambda i: f"{'é' if i % 2 else 'ü'},{number(i)},{i}.5", "lettre,x,y").decode().encode("cp1252"),
        {"lettre": "category", "x": "number"},
        "number",
        ["Windows-1252"],
    ),
    "UTF-16 with tabs, as a spreadsheet saves": Awkward(
        rows(lambda i: f"{number(i)}\t{'ab'[i % 2]}\t{i}.5", "x\tk\ty").decode().encode("utf-16"),
        {"x": "number", "k": "category"},
        "number",
    ),
    "huge whole numbers, and targets that are missing": Awkward(
        rows(
            lambda i: f"{10**18 + number(i)},{'' if i % 10 == 0 else i % 3},{'' if i % 6 == 0 else i * 1000}", "n,x,y"
        ),
        {"n": "number", "x": "number"},
        "number",
        ["10 rows without a target", "different whole ones"],
    ),
}
