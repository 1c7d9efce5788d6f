from collections import OrderedDict, UserDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from runner.util import trees
from runner.util.trees import UnevenTree

ONE, OTHER = torch.arange(6.0).reshape(3, 2), torch.arange(3)


class Named(NamedTuple):
    one: Tensor
    other: Tensor


@dataclass(frozen=True)
class Item:
    one: Tensor
    other: Tensor | None = None


class Encoding(UserDict[str, Any]):
    """A mapping that is no dict, as HF's `BatchEncoding` is."""


CONTAINERS: list[Callable[[Tensor, Tensor], Any]] = [
    lambda one, other: {"one": one, "other": other},
    lambda one, other: OrderedDict(one=one, other=other),
    lambda one, other: Encoding(one=one, other=other),
    lambda one, other: (one, other),
    lambda one, other: [one, other],
    Named,
    Item,
    lambda one, other: {"one": [one], "rest": Item(other)},
    lambda one, other: Encoding(pair=(one, Encoding(other=other))),
]


@pytest.mark.parametrize("container", CONTAINERS)
def test_each_container_is_taken_apart_and_put_together(container: Callable[[Tensor, Tensor], Any]) -> None:
    tree = container(ONE, OTHER)
    assert [leaf is expected for leaf, expected in zip(trees.leaves(tree), (ONE, OTHER), strict=True)] == [True, True]
    doubled = trees.tree_map(lambda leaf: leaf * 2, tree)
    assert type(doubled) is type(tree)
    assert [leaf.tolist() for leaf in trees.leaves(doubled)] == [(ONE * 2).tolist(), (OTHER * 2).tolist()]
    assert trees.first_axis(tree) == 3 and trees.is_container(tree)


def test_nothing_is_a_tree_without_leaves() -> None:
    assert trees.leaves(None) == [] and trees.tree_map(torch.zeros_like, None) is None
    assert trees.leaves(Item(ONE)) == [ONE] and trees.tree_map(torch.zeros_like, Item(ONE)).other is None
    assert trees.named_leaves(Item(ONE)) == [("one", ONE)]


def test_a_plain_tensor_is_not_looked_at_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pytree, "tree_flatten", lambda *_: pytest.fail("a tensor was taken apart"))
    assert trees.tree_map(torch.zeros_like, ONE).sum() == 0 and trees.leaves(ONE) == [ONE]
    assert trees.first_axis(ONE) == 3 and trees.shapes(ONE) == (3, 2) and not trees.is_container(ONE)


@pytest.mark.parametrize(
    ("tree", "said"),
    [
        ({"one": ONE, "other": OTHER[:2]}, "one has 3 samples, other has 2"),
        ({"one": {"left": ONE}, "other": (OTHER, torch.tensor(1))}, "other.1 is a single number"),
        ({"one": ONE, "text": "abc"}, "text is of type str"),
        (Item(ONE, OTHER[:1]), "one has 3 samples, other has 1"),
        ((ONE, OTHER[:1]), "0 has 3 samples, 1 has 1"),
        (torch.tensor(1.0), "single number"),
        ({}, "no tensor"),
        (None, "no tensor"),
    ],
)
def test_a_tree_without_a_common_first_axis_names_the_leaf(tree: Any, said: str) -> None:
    with pytest.raises(UnevenTree, match=said):
        trees.first_axis(tree)


def test_shapes_are_plain() -> None:
    assert trees.shapes(Encoding(one=ONE, two=Item(OTHER))) == {"one": (3, 2), "two": {"one": (3,), "other": ()}}
    assert trees.shapes(Named(ONE, OTHER), 1) == ((2,), ())
    assert trees.is_shape(trees.shapes(ONE)) and trees.is_shape(()) and trees.is_shape([3, 2])
    assert not any(trees.is_shape(trees.shapes(tree)) for tree in ((ONE, OTHER), {"one": ONE}))


class Sum(nn.Module):
    def forward(self, one: Any, other: Tensor | None = None) -> Tensor:
        if isinstance(one, Item):
            one, other = one.one, one.other
        return one.sum() - (0 if other is None else other.sum())


@pytest.mark.parametrize(
    "inputs", [ONE, {"other": OTHER, "one": ONE}, Encoding(one=ONE, other=OTHER), (ONE, OTHER), Named(ONE, OTHER),
               Item(ONE, OTHER)]
)  # fmt: skip
def test_a_model_gets_a_mapping_by_name_and_a_tuple_by_place(inputs: Any) -> None:
    assert trees.apply(Sum(), inputs) == (15 if inputs is ONE else 12)


def test_the_encodings_of_transformers_are_trees() -> None:
    transformers = pytest.importorskip("transformers")
    encoding = transformers.BatchEncoding({"input_ids": OTHER.reshape(3, 1), "attention_mask": OTHER})
    moved = trees.tree_map(lambda leaf: leaf + 1, encoding)
    assert type(moved) is transformers.BatchEncoding and moved["attention_mask"].tolist() == [1, 2, 3]
    assert trees.shapes(encoding) == {"input_ids": (3, 1), "attention_mask": (3,)}
    assert [name for name, _ in trees.named_leaves(encoding)] == ["input_ids", "attention_mask"]
