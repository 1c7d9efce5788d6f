from collections import UserDict
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import default_collate

from helpers.training import same
from runner.data.collate import collate, divide_pair, to_tensors
from runner.errors import TrainingError


class Named(NamedTuple):
    tokens: Any
    label: Any


@dataclass
class Item:
    tokens: Any
    label: Any


class Encoding(UserDict[str, Any]):
    pass


TOKENS = torch.tensor([[1, 2, 3], [4, 5, 6]])
LABELS = torch.tensor([7, 8])


@pytest.mark.parametrize(
    "container",
    [lambda a, b: (a, b), lambda a, b: [a, b], lambda a, b: {"tokens": a, "label": b}, Named, Item,
     lambda a, b: Encoding(tokens=a, label=b), lambda a, b: (a, {"label": b}, a)],
)  # fmt: skip
@pytest.mark.parametrize("leaf", [lambda row: row, lambda row: row.numpy(), lambda row: row.tolist()])
def test_items_of_any_container_are_stacked_leaf_by_leaf(container: Any, leaf: Any) -> None:
    items = [container(leaf(row), int(label)) for row, label in zip(TOKENS, LABELS, strict=True)]
    batch, expected = collate(items), container(TOKENS, LABELS)
    if isinstance(expected, list):
        expected = tuple(expected)
    assert type(batch) is type(expected)
    if isinstance(expected, Item):
        batch, expected = vars(batch), vars(expected)
    assert same(*(dict(tree) if isinstance(tree, Encoding) else tree for tree in (batch, expected)))


def test_pairs_are_stacked_as_torch_does_it() -> None:
    for items in ([(TOKENS[0], 1.5), (TOKENS[1], 2.0)], [(np.float32(1), True), (np.float32(2), False)]):
        assert same(list(collate(items)), list(default_collate(items)))


def test_tokens_in_a_list_are_one_sample() -> None:
    assert collate([[1, 2, 3], [4, 5, 6]]).tolist() == [[1, 2, 3], [4, 5, 6]]
    assert to_tensors({"ids": [1, 2], "rows": [[1.0], [2.0]]})["rows"].shape == (2, 1)


@pytest.mark.parametrize(
    ("items", "said"),
    [
        ([{"ids": [1, 2]}, {"ids": [1, 2, 3]}], "`ids` differ in shape, \\(2,\\) and \\(3,\\).*`collate_fn`"),
        ([(torch.zeros(2), 1), (torch.zeros(3), 1)], "`inputs` differ in shape"),
        ([{"text": "abc"}, {"text": "d"}], "`text` of an item of the data set is of type str"),
        ([(Image.new("L", (2, 2)), 1)] * 2, "is of type Image"),
        ([{"a": 1}, {"b": 1}], "one is of type dict with a, and one is of type dict with b"),
        ([(1, 2), (1, 2, 3)], "items of the data set differ"),
        ([(1, 2), 3], "items of the data set differ"),
    ],
)
def test_items_that_make_no_batch_are_named(items: list[Any], said: str) -> None:
    with pytest.raises(TrainingError, match=said):
        collate(items)


def test_only_a_plain_pair_is_divided() -> None:
    one, two = torch.zeros(1), torch.ones(1)
    for pair in ((one, two), [one, two]):
        assert divide_pair(pair) == (one, two)
    whole: list[Any] = [one, (one,), (one, two, one), {"a": one, "b": two}, Named(one, two), Item(one, two)]
    for item in whole:
        inputs, targets = divide_pair(item)
        assert inputs is item and targets is None


def test_nothing_stays_nothing() -> None:
    batch: dict[str, Tensor | None] = collate([{"a": torch.zeros(2), "b": None}] * 3)
    assert batch["b"] is None and batch["a"] is not None and batch["a"].shape == (3, 2)
