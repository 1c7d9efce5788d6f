"""`data=table`: what is read from tables as they are found, and what is fitted to the training part alone."""

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from helpers.awkward import AWKWARD, Awkward, number, rows
from helpers.problems import about, problem_of
from runner.assembly.auto_loss import choose
from runner.data.named_path import NamedPath
from runner.data.source import Source
from runner.data.splits import Splits
from runner.data.splitting import split
from runner.data.table import table
from runner.data.table_reader import read_frame, read_new
from runner.data.table_rows import FittedTable, TableRows, as_tensors
from runner.data.tabular.encoder import Encoder, read


def load(here: Path, data: bytes, name: str = "t.csv", **keys: Any) -> Source:
    (here / name).write_bytes(data)
    return table(here / name, **keys)


def divided(source: Source, seed: int = 0) -> Splits:
    return split(source, val_fraction=None, limit=None, seed=seed)


def kinds(source: Source) -> dict[str, str]:
    assert isinstance(source.rows, TableRows)
    return {column.name: column.kind for column in source.rows.columns}


def inputs(splits: Splits, part: str) -> Any:
    return getattr(splits, part).tensors[0]


@pytest.mark.parametrize("name", AWKWARD)
def test_a_table_is_read_as_it_is_and_its_own_file_gives_the_same_inputs_again(name: str, tmp_path: Path) -> None:
    awkward: Awkward = AWKWARD[name]
    source = load(tmp_path, awkward.data)
    assert kinds(source) == awkward.kinds
    assert (source.classes or "number") == awkward.target
    for words in awkward.said:
        assert words in "; ".join(source.notes)
    splits = divided(source)
    fitted = splits.table
    assert isinstance(fitted, FittedTable)
    # What a run records reads the same file again, to the same inputs.
    state = json.loads(json.dumps(fitted.state()))
    encoder, layout = Encoder.from_state(state["encoder"]), state["layout"]
    names = [column.name for column in encoder.columns]
    cells = read_new(
        NamedPath("input", "t.csv", tmp_path / "t.csv"), names, layout["header"], layout["width"], layout["target"]
    )
    again = as_tensors(encoder.transform(read(encoder.columns, cells)))
    assert isinstance(again, torch.Tensor) and again.isfinite().all()
    known = {row.numpy().tobytes() for row in again}
    for part in ("train", "val", "test"):
        assert all(row.numpy().tobytes() in known for row in inputs(splits, part))


@pytest.mark.parametrize(
    ("text", "count"),
    [("1,2\n3.5,4\n", 2), ("0,1\n5,7\n", 2), ("10,red\n11,blue\n", 2), ("size,colour\n10,red\n", 1), ("9,x", 1)],
)
def test_a_first_row_of_values_is_a_sample_if_the_training_table_had_no_names(
    tmp_path: Path, text: str, count: int
) -> None:
    (tmp_path / "new.csv").write_text(text)
    cells = read_new(NamedPath("input", "new.csv", tmp_path / "new.csv"), ["0", "1"], False, 3, "2")
    assert len(cells) == count


MIXED = rows(
    lambda i: f"{'' if i % 7 == 0 else number(i)},{'abc'[i % 3] if i % 5 else ''},{i}.5", "width,group,price", count=100
)


def test_numbers_and_categories_are_those_of_scikit_learn_fitted_to_the_training_part_alone(tmp_path: Path) -> None:
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    splits = divided(load(tmp_path, MIXED))
    assert isinstance(splits.table, FittedTable)
    encoder = splits.table.encoder
    frame = pd.read_csv(tmp_path / "t.csv", dtype={"group": str}, keep_default_na=False)
    values = splits.train.read_targets()
    frame = frame[frame["price"].isin(values.tolist())]  # the training part
    width = pd.to_numeric(frame["width"], errors="coerce").to_numpy()[:, None]
    scaler = StandardScaler().fit(width)
    assert encoder.scaler.mean_ == scaler.mean_ and encoder.scaler.scale_ == scaler.scale_
    one_hot = OneHotEncoder(sparse_output=False).fit_transform(frame[["group"]].to_numpy(dtype=object))
    assert encoder.names() == ["width", "width is blank", "group=", "group=a", "group=b", "group=c"]
    np.testing.assert_array_equal(inputs(splits, "train")[:, 2:].numpy(), one_hot)
    blank = np.isnan(width[:, 0])
    np.testing.assert_array_equal(inputs(splits, "train")[:, 1].numpy(), blank)
    assert (inputs(splits, "train")[:, 0].numpy()[blank] == 0).all()
    scaled = scaler.transform(width)[~blank, 0]
    np.testing.assert_allclose(inputs(splits, "train")[~blank, 0], scaled / np.sqrt(1 + (scaled / 4) ** 2), rtol=1e-6)


def test_another_division_is_fitted_to_other_rows_and_the_columns_stay(tmp_path: Path) -> None:
    source = load(tmp_path, MIXED)
    one, other = (divided(source, seed) for seed in (0, 1))
    assert isinstance(one.table, FittedTable) and isinstance(other.table, FittedTable)
    assert one.table.encoder.scaler.mean_ != other.table.encoder.scaler.mean_
    assert one.table.encoder.columns == other.table.encoder.columns
    assert one.fingerprint != other.fingerprint


def test_the_fingerprint_depends_on_the_text_of_categories(tmp_path: Path) -> None:
    one, other = (divided(load(tmp_path, data)) for data in (MIXED, MIXED.replace(b",a,", b",z,")))
    assert one.fingerprint != other.fingerprint


def test_a_category_that_training_lacks_is_one_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "test.csv").write_text("x,k,y\n1,new,3.5\n2,a,4.5\n")
    for embeds in (False, True):
        splits = divided(
            load(
                tmp_path,
                rows(lambda i: f"{i % 9},{'ab'[i % 2]},{i}.5", "x,k,y"),
                test_path=tmp_path / "test.csv",
                model_embeds=embeds,
            )
        )
        assert isinstance(splits.table, FittedTable)
        if embeds:
            assert inputs(splits, "test")["categories"].tolist() == [[0], [1]]
            assert splits.table.sizes == [3]
        else:
            assert inputs(splits, "test")[:, 1:].tolist() == [[0, 0], [1, 0]]


@pytest.mark.parametrize("name", ["t.tsv", "t.csv.gz", "t.parquet", "t.parquet.gz"])
def test_files_of_other_kinds_have_the_same_inputs(name: str, tmp_path: Path) -> None:
    frame = pd.DataFrame(
        {
            "x": [None if i % 7 == 0 else number(i) for i in range(60)],
            "k": [None if i % 5 == 0 else "ab"[i % 2] for i in range(60)],
            "day": pd.Timestamp("2024-01-01") + pd.to_timedelta(np.arange(60) * 3, unit="D"),
            "ok": [i % 4 == 0 for i in range(60)],
            "y": [i + 0.5 for i in range(60)],
        }
    )
    frame.to_csv(tmp_path / "t.csv", index=False)
    path = tmp_path / name
    bare = tmp_path / name.removesuffix(".gz")
    if bare.suffix == ".parquet":
        frame.to_parquet(bare)
    else:
        frame.to_csv(bare, index=False, sep="\t" if bare.suffix == ".tsv" else ",")
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(bare.read_bytes()))
    expected, found = (divided(table(one)) for one in (tmp_path / "t.csv", path))
    assert torch.equal(inputs(expected, "train"), inputs(found, "train"))


def test_a_whole_number_that_csv_doubts_is_a_number_and_typed_a_class(tmp_path: Path) -> None:
    doubtful = rows(lambda i: f"{i % 9},{i}", "x,y")
    source = load(tmp_path, doubtful)
    assert source.classes is None and "60 different whole ones" in source.notes[0]
    assert len(load(tmp_path, doubtful, target_type="category").classes or []) == 60
    halves = rows(lambda i: f"{i % 9},{i % 30 + 0.5}", "x,y")
    assert len(load(tmp_path, halves, loss_takes="classes").classes or []) == 30
    few = load(tmp_path, rows(lambda i: f"{i % 9},{i % 3 + 1}", "x,y"))
    assert few.classes == ["1", "2", "3"]


def test_the_word_for_a_missing_target_is_said(tmp_path: Path) -> None:
    source = load(tmp_path, rows(lambda i: f"{i % 9},{['NA', 'ZA', 'GB', ''][i % 4]}", "x,y"))
    assert source.classes == ["GB", "ZA"]
    said = "30 rows without a target (NA) are left out; if NA is a class, write another word in the file"
    assert said in source.notes


def test_several_targets_are_numbers_or_labels(tmp_path: Path) -> None:
    data = rows(
        lambda i: f"{number(i)},{i}.5,{i % 2},{['no', 'yes'][i % 3 == 0]},{'' if i == 7 else i % 2}", "x,n,a,b,c"
    )
    labels = load(tmp_path, data, target=["c", "b", "a"])
    assert labels.target == ["c", "b", "a"] and kinds(labels) == {"x": "number", "n": "number"}
    assert "3 labels" in labels.notes[0] and "1 row without a target is left out" in "; ".join(labels.notes)
    targets = divided(labels).all_targets
    assert targets is not None and targets.shape == (59, 3) and choose(targets, labels.classes)[0] == "bce_with_logits"
    assert set(map(tuple, targets.tolist())) == {(a, b, a) for a in (0, 1) for b in (0, 1)}
    numbers = load(tmp_path, data, target=["n", "a"])
    targets = divided(numbers).all_targets
    assert "2 numbers" in numbers.notes[0] and targets is not None
    assert choose(targets, numbers.classes)[0] == "mse" and targets[:, 0].sort().values.tolist() == [
        i + 0.5 for i in range(60)
    ]
    assert "2 numbers" in load(tmp_path, data, target=["a", "b"], loss_takes="values").notes[0]
    alone = load(tmp_path, data, target=["a"])
    assert alone.target == "a" and alone.classes == ["0", "1"]


def test_new_rows_without_names_may_lack_all_targets(tmp_path: Path) -> None:
    (tmp_path / "new.csv").write_text("5,2.5\n3,4.5\n")
    file = NamedPath("input", "new.csv", tmp_path / "new.csv")
    assert read_new(file, ["1", "3"], False, 4, ["0", "2"])["3"].tolist() == [2.5, 4.5]


@pytest.mark.parametrize(
    ("text", "names", "said"),
    [
        ("a b c\n1 2 x\n3   4 y\n", ["a", "b", "c"], "spaces"),
        ('  1.5  2.5  "a b"\n 10.5  3.5  "c d"\n', ["0", "1", "2"], "spaces"),
        ('a b\n"r1" 1 2\n"r2" 3 4\n', ["Unnamed: 0", "a", "b"], "spaces"),
        ("# a b\n1.5 2\n3 4\n", ["a", "b"], "spaces"),
        ("# made by hand\n# 2020, two words\na,b\n1,2\n3,4\n", ["a", "b"], "#"),
        ("# made by hand\na\tb\n1\t2\n3\t4\n", ["a", "b"], "#"),
        ("#,name\n1,x\n2,y\n", ["#", "name"], ""),
        ("# name,size\nx,1\ny,2\n", ["# name", "size"], ""),
        ("a,b\n1,2\n#3,4\n", ["a", "b"], ""),
    ],
)
def test_words_and_comments_are_told_apart(text: str, names: list[str], said: str, tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text(text)
    frame = read_frame(NamedPath("data.path", "t.txt", tmp_path / "t.txt"))
    assert list(frame.cells) == names and len(frame.cells) == 2
    assert (
        any(said in note for note in frame.notes) if said else not any("spaces" in n or "#" in n for n in frame.notes)
    )


def test_text_without_numbers_or_only_comments_is_no_table(tmp_path: Path) -> None:
    for text in ("one text\nanother text here\n", "# only\n# comments\n", "x\n1\n2\n"):
        assert about([problem_of(lambda text=text: load(tmp_path, text.encode()))]) == [("data.path", "data")]


def test_an_only_column_that_counts_the_rows_is_a_feature(tmp_path: Path) -> None:
    source = load(tmp_path, rows(lambda i: f"{i + 1},{number(i)}.5", '"",x'))
    assert kinds(source) == {"Unnamed: 0": "number"}


def test_many_categories_are_grouped(tmp_path: Path) -> None:
    source = load(tmp_path, rows(lambda i: f"{i % 9},w{i % 150},{i}.5", "x,word,y", count=900))
    splits = divided(source)
    assert isinstance(splits.table, FittedTable)
    assert len(splits.table.encoder.categories[0]) == 100


REFUSED = {
    "a column that only the test part has": (
        rows(lambda i: f"{i % 9},{i}.5", "x,y"), {"test_path": "other.csv"}, [("data.test_path", "data")]
    ),
    "the target in all rows": (rows(lambda i: f"{i % 9},same", "x,y"), {}, [("data.target", "data")]),
    "the target is all blank": (rows(lambda i: f"{i % 9},NA", "x,y"), {}, [("data.target", "data")]),
    "the target names the rows": (rows(lambda i: f"{i % 9},name {i}", "x,y"), {}, [("data.target", "data")]),
    "nothing but the target": (rows(lambda i: f"r{i},{number(i)}.5", ",y"), {}, [("data.path", "data")]),
    "nothing that differs": (rows(lambda i: f"1,{number(i)}.5", "x,y"), {}, [("data.path", "data")]),
    "rows of different lengths": (rows(lambda i: "1,2" + ",3" * (i % 2), "x,y"), {}, [("data.path", "data")]),
    "no rows": (b"x,y\n", {}, [("data.path", "data")]),
    "half a gzip file": (gzip.compress(rows(lambda i: f"{i},{i}", "x,y"))[:40], {}, [("data.path", "data")]),
    "half a Parquet file": (b"PAR1" + b"0" * 40, {}, [("data.path", "data")]),
    "an unknown target": (rows(lambda i: f"{i % 9},{i}.5", "x,y"), {"target": "z"}, [("data.target", "unknown")]),
    "an unknown index": (rows(lambda i: f"{i % 9},{i}.5", "x,y"), {"index": "z"}, [("data.index", "unknown")]),
    "text among several targets": (
        rows(lambda i: f"{i % 9},{i % 2},{'ab'[i % 2]}", "x,y,z"), {"target": ["y", "z"]}, [("data.target", "data")]
    ),
    "one of several targets in all rows": (
        rows(lambda i: f"{i % 9},{i % 2},1", "x,y,z"), {"target": ["y", "z"]}, [("data.target", "data")]
    ),
    "a target twice": (
        rows(lambda i: f"{i % 9},{i % 2}", "x,y"), {"target": ["y", "y"]}, [("data.target", "conflict")]
    ),
    "no target": (rows(lambda i: f"{i % 9},{i % 2}", "x,y"), {"target": []}, [("data.target", "conflict")]),
    "several targets for a loss of classes": (
        rows(lambda i: f"{i % 9},{i % 2},{i % 2}", "x,y,z"),
        {"target": ["y", "z"], "loss_takes": "classes"},
        [("loss", "conflict")],
    ),
    "several targets as classes": (
        rows(lambda i: f"{i % 9},{i % 2},{i % 2}", "x,y,z"),
        {"target": ["y", "z"], "target_type": "category"},
        [("data.target_type", "conflict")],
    ),
    "text for a loss of values": (
        rows(lambda i: f"{i % 9},{'ab'[i % 2]}", "x,y"), {"loss_takes": "values"}, [("data.target_type", "data")]
    ),
    "a class for each row, for a loss of classes": (
        rows(lambda i: f"{i % 9},name {i}", "x,y"), {"loss_takes": "classes"}, [("data.target", "data")]
    ),
    "a class for each decimal, for a loss of classes": (
        rows(lambda i: f"{i % 9},{i}.5", "x,y"), {"loss_takes": "classes"}, [("data.target", "data")]
    ),
    "a class for each decimal, as typed": (
        rows(lambda i: f"{i % 9},{i}.5", "x,y"), {"target_type": "category"}, [("data.target", "data")]
    ),
    "a class for each whole number, for a loss of classes": (
        rows(lambda i: f"{i % 9},{i}", "x,y"), {"loss_takes": "classes"}, [("data.target", "data")]
    ),
    "numbers for a loss of classes": (
        rows(lambda i: f"{i % 9},{i}.5", "x,y"),
        {"loss_takes": "classes", "target_type": "number"},
        [("data.target_type", "conflict")],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_learned_is_refused(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    data, keys, expected = REFUSED[name]
    (tmp_path / "other.csv").write_text("x,extra,y\n1,2,3\n2,3,4\n")
    assert about([problem_of(lambda: load(tmp_path, data, **keys))]) == expected


def test_columns_blanks_and_true_or_false_are_said(tmp_path: Path) -> None:
    data = rows(lambda i: f"{'' if i % 6 == 0 else i % 9},{['yes', 'no', ''][i % 3]},{'abc'[i % 3]},{i}.5", "x,ok,k,y")
    notes = load(tmp_path, data).notes
    assert {"3 columns to learn from", "true or false: ok", "blanks filled with the mean: x 10, ok 20"} <= {*notes}
