import collections
import enum
import io
import random
from typing import Any

import numpy as np
import pytest
import torch

from runner.util.primitives import StateError, decode, encode, find_unreadable


def there_and_back(value: Any) -> Any:
    """Save and load a value through a file that is read without running code."""
    file = io.BytesIO()
    torch.save(encode({"state": value}, "test"), file)
    file.seek(0)
    return decode(torch.load(file, weights_only=True))["state"]


class Colour(enum.IntEnum):
    RED = 1


@pytest.mark.parametrize(
    "value",
    [
        np.float32(0.1),
        np.float64("nan"),
        np.longdouble(1) / 3,
        np.int8(-3),
        np.bool_(True),
        np.str_("text"),
        np.datetime64("2026-11-28"),
        np.complex64(1 + 2j),
        np.arange(6.0).reshape(2, 3),
        np.asfortranarray(np.arange(6).reshape(2, 3)),
        np.zeros((0, 3), dtype=np.float16),
        np.array(5),
        np.array([(1, 2.0)], dtype=[("a", "i4"), ("b", "f8")]),
    ],
)
def test_numpy_values_are_restored(value: Any) -> None:
    again = there_and_back({"a": [value, (value, 1)]})["a"][1][0]
    assert type(again) is type(value) and again.dtype == value.dtype and again.shape == value.shape
    assert again.tobytes() == value.tobytes() and again.flags.f_contiguous == value.flags.f_contiguous
    if isinstance(value, np.ndarray):
        assert again.flags.writeable


@pytest.mark.parametrize(
    "value",
    [
        collections.deque([1, np.float64(2)], maxlen=3),
        collections.defaultdict(list, {"a": [1]}),
        collections.Counter("abb"),
        collections.OrderedDict(b=np.int64(1), a=2),
        frozenset({1, 2}),
        {np.int64(1), 2},
        {np.int64(3): "by a number of NumPy's"},
        range(1, 9, 2),
        slice(1, None),
        2**130,
        torch.channels_last,
        [None, True, 1.5, 1j, "text", b"bytes", bytearray(b"more"), torch.float16, torch.Size([2])],
    ],
)
def test_other_values_are_restored(value: Any) -> None:
    again = there_and_back(value)
    assert type(again) is type(value) and again == value
    if isinstance(value, collections.deque):
        assert again.maxlen == value.maxlen
    if isinstance(value, collections.defaultdict):
        assert again["new"] == []


def test_generators_continue_from_their_state() -> None:
    for made in (np.random.default_rng(3), np.random.Generator(np.random.Philox(1)), np.random.RandomState(3)):
        made.normal(size=3)
        again = there_and_back(made)
        assert type(again) is type(made) and np.array_equal(again.normal(size=5), made.normal(size=5))
    ours, python = torch.Generator().manual_seed(5), random.Random(7)
    python.gauss(0, 1)
    assert torch.equal(torch.rand(3, generator=there_and_back(ours)), torch.rand(3, generator=ours))
    assert there_and_back(python).gauss(0, 1) == python.gauss(0, 1)


def test_objects_that_need_no_conversion_are_returned_themselves() -> None:
    state = {"model": torch.nn.BatchNorm1d(2).state_dict(), "rng": [1, [2.0, (None,)]]}
    assert encode(state, "state") is state and decode(state) is state
    changed = encode(collections.OrderedDict(state["model"], extra=np.float64(1)), "model")
    assert decode(changed)["running_mean"] is state["model"]["running_mean"]


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({"groups": [{"fn": lambda x: x}]}, r"optimizer\.groups\[0\]\.fn is a function or class \(.*lambda"),
        ([Colour.RED], r"optimizer\[0\] is of type test_primitives\.Colour"),
        ({"a": np.array([object()])}, r"optimizer\.a is a NumPy array of Python objects"),
        ({"a": np.ma.array([1])}, r"optimizer\.a is of type numpy\.ma\..*MaskedArray"),
        ({1: {"x": io.BytesIO()}}, r"optimizer\[1\]\.x is of type _io\.BytesIO"),
    ],
)
def test_values_that_cannot_be_saved_are_named_with_their_path(value: Any, words: str) -> None:
    with pytest.raises(StateError, match=words):
        encode(value, "optimizer")


class Mine(torch.Tensor):
    """A subclass of Tensor, whose code `torch.load` would have to run."""


def test_a_tensor_of_a_subclass_is_named() -> None:
    state = {"model": {"a": torch.ones(2), "b": torch.ones(2).as_subclass(Mine)}, "rng": [1]}
    assert encode(state, "state") is state
    assert find_unreadable(state) == "model.b is of type test_primitives.Mine"
    assert find_unreadable({"model": {"a": torch.ones(2)}}) is None
