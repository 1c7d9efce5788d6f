"""`data.split` and `data.split_by`: who is held out."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from helpers.problems import about, problem_of, problems_of
from helpers.training import blobs, same
from runner.data.division import Division
from runner.data.source import Source
from runner.data.splits import Splits
from runner.data.splitting import split
from runner.data.table import table

LABELS = torch.tensor([0] * 60 + [1] * 30 + [2] * 10)
INPUTS = torch.arange(100.0).unsqueeze(1)
NUMBERS = Source("s", (INPUTS, INPUTS), arrays={"g": range(100)})


def divided(source: Source | None = None, **arguments: Any) -> Splits:
    division = Division(arguments.pop("split", "random"), arguments.pop("split_by", None))
    values: dict[str, Any] = {"val_fraction": 0.2, "limit": None, "seed": 0}
    return split(source or Source("s", (INPUTS, LABELS)), division=division, **(values | arguments))


def held_out(splits: Splits) -> list[int]:
    assert splits.val is not None
    return splits.val.inputs.flatten().int().tolist()


def test_each_class_has_its_share() -> None:
    splits = divided(split="stratified")
    assert Counter(LABELS[held_out(splits)].tolist()) == {0: 12, 1: 6, 2: 2}
    assert Counter(LABELS[held_out(divided(split="stratified", val_fraction=0.15))].tolist()) in (
        {0: 9, 1: 5, 2: 1}, {0: 9, 1: 4, 2: 2}
    )  # fmt: skip
    assert held_out(splits) != held_out(divided(split="stratified", seed=1))
    limited = divided(split="stratified", limit=50)
    assert limited.val is not None and (len(limited.train), len(limited.val)) == (40, 10)
    together = torch.cat([limited.train.inputs, limited.val.inputs]).flatten().tolist()
    assert len(set(together)) == 50


def test_the_last_samples_in_their_order() -> None:
    assert held_out(divided(split="sequential")) == list(range(80, 100))
    limited = divided(split="sequential", limit=50)
    assert held_out(limited) == list(range(40, 50)) and limited.train.inputs.flatten().tolist() == list(range(40))


def test_random_is_as_it_was() -> None:
    source = blobs()
    assert same(divided(source).train.tensors, split(source, val_fraction=0.2, limit=None, seed=0).train.tensors)


@pytest.mark.parametrize("how", ["random", "sequential"])
def test_no_group_is_in_both_parts(how: str) -> None:
    groups = [f"patient {index // 7}" for index in range(100)]
    source = Source("s", (INPUTS, LABELS), arrays={"patient": groups})
    splits = divided(source, split=how, split_by="patient")
    out = held_out(splits)
    assert 20 <= len(out) <= 26
    assert not {groups[index] for index in out} & {groups[index] for index in set(range(100)) - set(out)}
    if how == "sequential":
        assert min(out) == 77


@pytest.mark.parametrize("share", [0.1, 0.2, 0.3, 0.5, 0.8])
def test_whole_groups_are_held_out_with_about_the_share_of_each_class(share: float) -> None:
    rng = torch.Generator().manual_seed(0)
    groups = torch.randint(60, (600,), generator=rng).tolist()
    labels = torch.tensor([(group % 4 == 0) + 2 * (index % 2) for index, group in enumerate(groups)])
    source = Source("s", (torch.arange(600.0).unsqueeze(1), labels), arrays={"g": groups})
    outs = [
        held_out(divided(source, split="stratified", split_by="g", val_fraction=share, seed=seed)) for seed in (0, 0, 1)
    ]
    out = outs[0]
    assert out == outs[1] != outs[2], "by the seed"
    assert not {groups[index] for index in out} & {groups[index] for index in set(range(600)) - set(out)}
    assert len(out) / 600 == pytest.approx(share, abs=0.05)
    for number in labels.unique().tolist():
        members = (labels == number).nonzero().flatten().tolist()
        assert len(set(members) & set(out)) / len(members) == pytest.approx(share, abs=0.1)


def test_the_largest_group_is_not_always_held_out() -> None:
    groups = [0] * 40 + list(range(1, 61))
    source = Source("s", (INPUTS, INPUTS.flatten().long() % 2), arrays={"g": groups})
    splits = [divided(source, split="stratified", split_by="g", seed=seed) for seed in range(24)]
    assert {0 in held_out(one) for one in splits} == {True, False}


def test_few_groups_and_rare_classes_are_divided_too() -> None:
    for groups, labels in (([0, 0, 1], [0, 1, 1]), ([0, 1, 2, 3], [0, 0, 1, 2])):
        inputs = torch.arange(float(len(groups))).unsqueeze(1)
        source = Source("s", (inputs, torch.tensor(labels)), arrays={"g": groups})
        splits = divided(source, split="stratified", split_by="g", val_fraction=0.25)
        assert splits.val is not None and len(splits.train) and len(splits.val)
    alone = Source("s", (inputs, torch.arange(4)), arrays={"g": groups})
    problem = problem_of(lambda: divided(alone, split="stratified", split_by="g", val_fraction=0.25))
    assert about([problem]) == [("data.split", "data")]


def test_arrays_may_be_attributes_and_columns() -> None:
    class Items(list[Any]):
        site = torch.arange(100) % 5

    out = held_out_items(divided(Source("s", Items(zip(INPUTS, LABELS, strict=True))), split_by="site"))
    assert len({index % 5 for index in out}) == 1 and len(out) == 20
    datasets = pytest.importorskip("datasets")
    rows = datasets.Dataset.from_dict({"x": INPUTS.tolist(), "labels": LABELS.tolist(), "site": Items.site.tolist()})
    splits = divided(Source("s", rows), split_by="site", divide=lambda item: (item["x"], item["labels"]))
    assert len({index % 5 for index in held_out_items(splits)}) == 1


def held_out_items(splits: Splits) -> list[int]:
    assert splits.val is not None
    return [int(torch.as_tensor(splits.val.sample(index)[0])) for index in range(len(splits.val))]


def test_a_table_keeps_its_groups_out_of_the_test_part_too(tmp_path: Path) -> None:
    file = tmp_path / "t.csv"
    rows = [f"{index},{'abcdefghij'[index // 10]},{index % 2}" for index in range(100)]
    file.write_text("\n".join(["x,site,y", *rows]))
    source = table(file, split_by="site")
    assert source.arrays is not None and source.test is not None
    splits = divided(source, split_by="site")
    parts = (splits.train, splits.val, splits.test)
    assert all(len(part) % 10 == 0 for part in parts if part is not None) and len(splits.train) == 60


@pytest.mark.parametrize(
    ("arguments", "key", "topic"),
    [
        ({"split": "stratified", "source": Source("s", (INPUTS, INPUTS))}, "data.split", "conflict"),
        ({"split": "stratified", "split_by": "g", "source": NUMBERS}, "data.split", "conflict"),
        ({"split": "stratified", "split_by": "one"}, "data.split_by", "data"),
        ({"split_by": "sight"}, "data.split_by", "unknown"),
        ({"split_by": "one"}, "data.split_by", "data"),
        ({"split_by": "short"}, "data.split_by", "shape"),
        ({"split_by": "g", "val_fraction": 0}, "data.split_by", "conflict"),
        ({"split": "sequential", "val_fraction": 0}, "data.split", "conflict"),
    ],
)
def test_what_cannot_be_divided_so_is_refused(arguments: dict[str, Any], key: str, topic: str) -> None:
    arrays = {"g": [index // 2 for index in range(100)], "one": ["a"] * 100, "short": [1, 2], "site": [1] * 100}
    source = arguments.pop("source", Source("s", (INPUTS, LABELS), arrays=arrays))
    problem = problem_of(lambda: divided(source, **arguments))
    assert about([problem]) == [(key, topic)]
    if topic == "unknown":
        assert "site" in problem.suggestion


def test_a_validation_part_of_its_own_leaves_nothing_to_divide() -> None:
    source = Source("s", (INPUTS, LABELS), val=(INPUTS, LABELS))
    problems = problems_of(lambda: divided(source, split="stratified", split_by="g", val_fraction=None))
    assert about(problems) == [("data.split", "conflict"), ("data.split_by", "conflict")]
