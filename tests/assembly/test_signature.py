from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Optional

import pytest
import torch
from torch import Tensor, nn

from helpers.problems import about
from runner.assembly.signature import check, describe, fits
from runner.errors import Problem
from runner.util.ranges import COUNT, PROBABILITY, Choice, Range


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


def problems(**arguments: Any) -> list[Problem]:
    return check("model", Net, {"_target_": "x.Net", "width": 3} | arguments, ("input_shape",))


def test_what_fits_has_no_problem() -> None:
    assert problems() == []
    assert problems(scale=2, name=None, layers=[1, 2], pair=[0.5, 1], mode="b", sloppy=None, untyped=[{}]) == []


def test_unknown_missing_and_mistyped_arguments_are_all_named() -> None:
    found = problems(widht=3, width="wide", scale=True, layers=[1, "x"], pair=[1.0], mode="c")
    assert about(found) == [
        ("model.widht", "unknown"),
        ("model.width", "type"),
        ("model.scale", "type"),
        ("model.layers", "type"),
        ("model.pair", "type"),
        ("model.mode", "type"),
    ]
    assert [problem.suggestion for problem in found] == [
        "did you mean width?",
        "write a whole number",
        "write a number",
        "write model.layers=[64,32]",
        "write model.pair=[0.1,0.2]",
        "write one of a, b",
    ]
    (missing,) = check("model", Net, {"_target_": "x.Net"}, ("input_shape",))
    assert about([missing]) == [("model.width", "missing")] and "+model.width=" in missing.suggestion


class Bounded(nn.Module):
    def __init__(
        self,
        width: Annotated[int, Range(1, 9, whole=True)],
        rate: Annotated[float | None, PROBABILITY] = None,
        sizes: Annotated[Sequence[int], COUNT] = (1,),
        mode: Annotated[str, Choice(("a", "b"))] = "a",
        depth: Annotated[int, COUNT] | None = None,
    ) -> None:
        super().__init__()


def test_bounds_of_a_class_of_the_users_are_checked() -> None:
    def found(**arguments: Any) -> list[tuple[str, str]]:
        return about(check("model", Bounded, {"width": 3} | arguments, ()))

    assert found(rate=0.5, sizes=[1, 2], mode="b", depth=2) == found(rate=None, depth=None) == []
    assert found(width=10) == [("model.width", "range")] and found(width="x") == [("model.width", "type")]
    assert found(rate=1.0, sizes=[1, 0]) == [("model.rate", "range"), ("model.sizes", "range")]
    assert found(mode="c", depth=0) == [("model.mode", "choice"), ("model.depth", "range")]
    (problem,) = check("model", Bounded, {"width": 0}, ())
    assert problem.suggestion == "write a whole number at least 1 and at most 9"


def test_several_unknown_arguments_are_one_sentence() -> None:
    (problem,) = problems(depth=3, height=4)
    assert problem.topic == "unknown" and problem.suggestion.endswith("~model.depth ~model.height")
    assert "width, scale" in problem.text and "input_shape" not in problem.text, "runner passes that itself"


def test_null_only_where_it_is_meant() -> None:
    assert about(problems(width=None)) == [("model.width", "type")]
    assert about(problems(scale=None)) == [("model.scale", "type")]
    (problem,) = check("optimizer", torch.optim.SGD, {"lr": None}, ("params",))
    assert about([problem]) == [("optimizer.lr", "type")] and problem.suggestion == "write a number above 0"


def test_a_missing_value_is_somebody_elses_problem() -> None:
    assert problems(scale="???") == []


def test_any_name_goes_where_keywords_are_open() -> None:
    def model(**keywords: Any) -> nn.Module:
        return nn.Linear(1, 1, **keywords)

    assert check("model", model, {"bias": False, "whatever": 1}, ()) == []


def test_what_does_not_tell_its_signature_is_not_judged() -> None:
    assert check("model", dict, {"a": 1}, ()) == []


def test_an_annotation_that_cannot_be_resolved_says_nothing_and_the_others_are_checked() -> None:
    def model(width: "NoSuchType", depth: "int | None" = None) -> None:  # type: ignore[name-defined]  # noqa: F821
        pass

    assert about(check("model", model, {"width": "wide", "depth": "deep"}, ())) == [("model.depth", "type")]


def test_bounds_of_a_mapping_are_those_of_its_values() -> None:
    def model(shares: Annotated[dict[str, float], Range(0)]) -> None:
        pass

    assert check("model", model, {"shares": {"a": 1}}, ()) == []
    assert about(check("model", model, {"shares": {"a": 1, "b": -1}}, ())) == [("model.shares", "range")]


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
