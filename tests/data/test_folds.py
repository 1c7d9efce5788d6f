"""`data.folds` and `data.fold`: the folds are scikit-learn's, and the same for each of them."""

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.model_selection import KFold, StratifiedGroupKFold, StratifiedKFold

from helpers.problems import problem_of
from helpers.training import same
from runner.config.schema import check_config
from runner.data.division import Division
from runner.data.source import Source
from runner.data.splits import Splits
from runner.data.splitting import split

LABELS = torch.tensor([0] * 60 + [1] * 30 + [2] * 10)
INPUTS = torch.arange(100.0).unsqueeze(1)
GROUPS = [f"patient {index // 7}" for index in range(100)]
SOURCE = Source("s", (INPUTS, LABELS), (INPUTS[:9], LABELS[:9]), arrays={"patient": GROUPS})


def divided(folds: int = 4, fold: int | None = 0, source: Source = SOURCE, **arguments: Any) -> Splits:
    division = Division(arguments.pop("split", "random"), arguments.pop("split_by", None), folds, fold)
    values: dict[str, Any] = {"val_fraction": None, "limit": None, "seed": 0}
    return split(source, division=division, **(values | arguments))


def numbers(part: Any) -> list[int]:
    assert part is not None
    return part.inputs.flatten().int().tolist()


def folds_of(folds: int = 4, **arguments: Any) -> list[list[int]]:
    """Return the samples of each fold, and check that training has exactly the others."""
    found = []
    for fold in range(folds):
        splits = divided(folds, fold, **arguments)
        found.append(numbers(splits.val))
        every = range(100) if "limit" not in arguments else sorted(numbers(splits.train) + numbers(splits.val))
        assert numbers(splits.train) == sorted(set(every) - set(found[-1]))
    members = [sample for fold in found for sample in fold]
    assert len(members) == len(set(members)) == (arguments.get("limit") or 100)
    return found


@pytest.mark.parametrize(
    ("how", "splitter"),
    [
        ("random", KFold(4, shuffle=True, random_state=3)),
        ("stratified", StratifiedKFold(4, shuffle=True, random_state=3)),
        ("sequential", KFold(4)),
    ],
)
def test_the_folds_are_those_of_scikit_learn(how: str, splitter: Any) -> None:
    expected = [members.tolist() for _, members in splitter.split(INPUTS, LABELS)]
    assert folds_of(split=how, seed=3) == expected
    assert (folds_of(split=how, seed=4) == expected) == (how == "sequential")


@pytest.mark.parametrize("how", ["random", "stratified", "sequential"])
def test_no_group_is_in_two_folds(how: str) -> None:
    found = folds_of(split=how, split_by="patient")
    of_folds = [{GROUPS[sample] for sample in fold} for fold in found]
    assert sum(map(len, of_folds)) == len(set(GROUPS))
    if how == "sequential":
        assert found == [list(range(28)), list(range(28, 56)), list(range(56, 84)), list(range(84, 100))]
    if how == "stratified":
        numbered = [index // 7 for index in range(100)]
        splitter = StratifiedGroupKFold(4, shuffle=True, random_state=0)
        assert found == [members.tolist() for _, members in splitter.split(INPUTS, LABELS, numbered)]


def test_groups_by_class_make_no_empty_fold() -> None:
    generator = np.random.default_rng(0)
    for seed in range(100):
        sizes = generator.integers(1, 12, int(generator.integers(4, 15)))
        groups = np.repeat(np.arange(len(sizes)), sizes)
        labels = torch.from_numpy(generator.integers(0, 2, len(groups)))
        if labels.bincount(minlength=2).min() < 4:
            continue
        inputs = torch.arange(float(len(groups))).unsqueeze(1)
        source = Source("s", (inputs, labels), arrays={"g": groups.tolist()})
        sizes_of = [divided(4, fold, source, split="stratified", split_by="g", seed=seed).sizes for fold in (0, 3)]
        assert all(0 < size["val"] < len(groups) for size in sizes_of)


def test_a_limit_and_large_seeds() -> None:
    found = folds_of(limit=40, seed=2**62 + 1)
    assert [len(fold) for fold in found] == [10] * 4


def test_only_the_folds_together_see_the_test_part() -> None:
    splits, without = divided(), split(SOURCE, val_fraction=0.2, limit=None, seed=0)
    assert splits.test is None and splits.sizes["test"] == 0 and splits.val_fraction is None
    assert splits.untouched is not None and without.test is not None and without.untouched is None
    assert same(splits.untouched.tensors, without.test.tensors)
    assert divided().fingerprint != divided(fold=1).fingerprint
    seeds = [divided(limit=5, seed=seed).untouched for seed in (0, 1)]
    assert numbers(seeds[0]) == numbers(seeds[1]), "the models of all seeds predict the same samples"


def test_what_cannot_be_divided_into_folds() -> None:
    few = Source("s", (INPUTS[:12], LABELS[55:67]), arrays={"g": [0] * 6 + [1] * 6, "one": [0] * 12})
    cases: list[tuple[dict[str, Any], str]] = [
        ({"folds": 13}, "only 12 training samples; write data.folds=12, or fewer"),
        ({"split_by": "g"}, "only 2 groups of data.split_by=g; write data.folds=2, or fewer"),
        ({"split_by": "one"}, "only 1 group of data.split_by=one; write data.folds=null"),
        (
            {"split": "stratified", "folds": 6},
            "only 5 samples of class 0; write data.folds=5, or fewer, or data.split=",
        ),
        ({"source": Source("s", (INPUTS, INPUTS)), "split": "stratified"}, "needs classes"),
        ({"source": Source("s", (INPUTS, LABELS), val=(INPUTS, LABELS))}, "has its own validation part"),
        ({"source": Source("s", torch.utils.data.ChainDataset([])), "samples_per_epoch": 8}, "data.folds=4: a stream"),
        ({"fold": None}, "add data.fold=0"),
    ]
    for arguments, text in cases:
        problem = problem_of(lambda arguments=arguments: divided(**({"source": few} | arguments)))  # type: ignore[misc]
        assert text in str(problem)


def test_what_the_config_does_not_allow() -> None:
    def problems(**data: Any) -> str:
        return " | ".join(map(str, check_config({"data": data})))

    assert problems(folds=4, fold=3, val_fraction=None) == "" == problems(folds=None, fold=None, val_fraction=0.1)
    assert "data.fold=1 needs the number of folds" in problems(fold=1)
    assert "the last of 4 folds is 3; write data.fold=3" in problems(folds=4, fold=4)
    assert "data.folds=1 is out of range" in problems(folds=1)
    assert "write data.val_fraction=null" in problems(folds=4, val_fraction=0)
    assert "write data.val_path=null" in problems(folds=4, val_path="val.csv")
