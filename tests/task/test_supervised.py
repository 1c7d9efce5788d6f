"""The division of items, and the outputs of models that return more than a tensor."""

from collections import OrderedDict
from dataclasses import dataclass
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from helpers.problems import problem_of
from runner.task.supervised import OutputError, Supervised, output_of

ONE, TWO = torch.ones(3), torch.zeros(3)


class Named(NamedTuple):
    image: Tensor
    digit: int


class Labelled(NamedTuple):
    left: Tensor
    right: Tensor
    labels: int


@dataclass
class Fields:
    text: Tensor
    target: int


@pytest.mark.parametrize(
    ("item", "keys", "inputs", "targets"),
    [
        ((ONE, 1), None, ONE, 1),
        ([ONE, 1], None, ONE, 1),
        (Named(ONE, 1), None, ONE, 1),
        (({"a": ONE}, 1), None, {"a": ONE}, 1),
        ({"a": ONE, "labels": 1}, None, {"a": ONE}, 1),
        ({"a": ONE, "target": 1}, None, {"a": ONE}, 1),
        ({"a": ONE, "target": TWO, "labels": 1}, None, {"a": ONE, "target": TWO}, 1),
        ({"a": ONE, "y": 1}, "y", {"a": ONE}, 1),
        ({"a": ONE, "y": 1, "z": 2}, ["y", "z"], {"a": ONE}, {"y": 1, "z": 2}),
        (Labelled(ONE, TWO, 1), None, {"left": ONE, "right": TWO}, 1),
        (Fields(ONE, 1), None, {"text": ONE}, 1),
        (Named(ONE, 1), "image", {"digit": 1}, ONE),
    ],
)
def test_an_item_is_divided(item: Any, keys: Any, inputs: Any, targets: Any) -> None:
    assert Supervised(keys).divide(item) == (inputs, targets)


@pytest.mark.parametrize(
    ("item", "keys", "key", "topic", "shown"),
    [
        ((ONE, ONE, 1), None, "data", "code", "tuple of 3"),
        (ONE, None, "data", "code", "Tensor"),
        ({"a": ONE, "b": 1}, None, "task.targets", "unknown", "a, b"),
        ({"a": ONE, "label": 1}, "lable", "task.targets", "unknown", "a, label"),
    ],
)
def test_an_item_without_targets_is_refused(item: Any, keys: Any, key: str, topic: str, shown: str) -> None:
    problem = problem_of(lambda: Supervised(keys).divide(item))
    assert (problem.key, problem.topic) == (key, topic) and shown in problem.text


def test_a_near_key_is_suggested() -> None:
    assert "label" in problem_of(lambda: Supervised("lable").divide({"a": ONE, "label": 1})).suggestion


@pytest.mark.parametrize(
    "result",
    [ONE, {"logits": ONE, "hidden": TWO}, OrderedDict(loss=TWO, logits=ONE), {"out": ONE}, (ONE,), [ONE, None]],
)
def test_outputs_are_the_tensor_the_logits_or_the_only_tensor(result: Any) -> None:
    assert output_of(result) is ONE


@pytest.mark.parametrize("result", [None, (ONE, TWO), {"a": ONE, "b": TWO}, "text"])
def test_other_outputs_are_refused(result: Any) -> None:
    with pytest.raises(OutputError):
        output_of(result)
