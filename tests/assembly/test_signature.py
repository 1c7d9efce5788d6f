from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, Optional

import pytest
import torch
from torch import Tensor, nn

from runner.assembly.signature import check, describe, fits


class Net(nn.Module):
    def __init__(
        self,
        input_shape: tuple[int, ...],
        width: int,
        scale: float = 1.0,
        name: str | None = None,
        layers: Sequence[int] = (),
        pair: tuple[float, float] = (0.0, 1.0),
        mode: Literal["a", "b"] = "a",
        sloppy: int = None,  # type: ignore[assignment]  # noqa: RUF013
        untyped=3,
    ) -> None:
        super().__init__()


def problems(**arguments: Any) -> list[str]:
    return check("model", Net, {"_target_": "x.Net", "width": 3} | arguments, ("input_shape",))


def test_what_fits_has_no_problem() -> None:
    assert problems() == []
    assert problems(scale=2, name=None, layers=[1, 2], pair=[0.5, 1], mode="b", sloppy=None, untyped=[{}]) == []


def test_unknown_missing_and_mistyped_arguments_are_all_named() -> None:
    assert problems(widht=3, width="wide", scale=True, layers=[1, "x"], pair=[1.0], mode="c") == [
        "model.widht: Net takes no widht; did you mean width?",
        "model.width=wide is not a whole number, which Net needs",
        "model.scale=true is not a number, which Net needs",
        "model.layers=[1,x] is not a list such as [a whole number, ...], which Net needs: write model.layers=[64,32]",
        "model.pair=[1.0] is not a list of 2: [a number, a number], which Net needs",
        "model.mode=c is not one of a, b, which Net needs",
    ]
    assert check("model", Net, {"_target_": "x.Net"}, ("input_shape",)) == [
        "model.width is missing: Net needs it; write +model.width=..."
    ]


def test_several_unknown_arguments_are_one_sentence() -> None:
    (problem,) = problems(depth=3, height=4)
    assert problem.startswith("model.depth and model.height: Net takes no such keys, only width, scale")
    assert problem.endswith("leave them out by ~model.depth ~model.height")
    assert "input_shape" not in problem, "runner gives that itself"


def test_null_only_where_it_is_meant() -> None:
    assert problems(width=None) == ["model.width=null is not a whole number, which Net needs"]
    assert problems(scale=None) == ["model.scale=null is not a number, which Net needs"]
    assert check("optimizer", torch.optim.SGD, {"lr": None}, ("params",)) == [
        "optimizer.lr=null is not a number, which SGD needs"
    ]


def test_a_missing_value_is_somebody_elses_problem() -> None:
    assert problems(scale="???") == []


def test_any_name_goes_where_keywords_are_open() -> None:
    def model(**keywords: Any) -> nn.Module:
        return nn.Linear(1, 1, **keywords)

    assert check("model", model, {"bias": False, "whatever": 1}, ()) == []


def test_what_does_not_tell_its_signature_is_not_judged() -> None:
    assert check("model", dict, {"a": 1}, ()) == []


def test_an_annotation_that_cannot_be_resolved_says_nothing() -> None:
    def model(width: "NoSuchType") -> None:  # type: ignore[name-defined]  # noqa: F821
        pass

    assert check("model", model, {"width": "wide"}, ()) == []


@pytest.mark.parametrize(
    ("value", "hint", "right"),
    [
        (1, float, True),
        (True, int, False),
        (1, bool, False),
        ("x", str, True),
        ("x", Path, True),
        (3, Path, False),
        (1, float | Tensor, True),
        ("x", float | Tensor, False),
        (None, float | Tensor, False),
        (None, Optional[int], True),  # noqa: UP045 - users still write it so
        ([1], list, True),
        ("ab", list[str], False),
        (["a"], Sequence[str], True),
        (3, Tensor, False),
        ("relu", Callable[[Tensor], Tensor], True),
        ({"_target_": "torch.nn.ReLU"}, nn.Module, True),
        ("anything", Any, True),
    ],
)
def test_a_value_out_of_yaml_fits_an_annotation(value: Any, hint: Any, right: bool) -> None:
    assert fits(value, hint) is right


def test_annotations_in_words() -> None:
    assert describe(int | None) == "a whole number or null"
    assert describe(float | list[float]) == "a number or a list such as [a number, ...]"
    assert describe(Tensor) == "a Tensor"
