"""A model of one input and data with several: the reason is said, and not a key of the model."""

from pathlib import Path

import pytest

from helpers.composed import built
from helpers.problems import problem_of
from helpers.several_inputs import MODULE


@pytest.mark.parametrize("model", ["mlp", "cnn", "unet", "gpt"])
@pytest.mark.parametrize(("data", "takes"), [("two", "a, b"), ("ordered", "2 tensors")])
def test_several_inputs(model: str, data: str, takes: str, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (here / "several.py").write_text(MODULE)
    monkeypatch.syspath_prepend(here)
    problem = problem_of(lambda: built("data=custom", f"data._target_=several.{data}", f"model={model}"))
    assert (problem.key, problem.topic) == ("model", "shape")
    assert "takes one input, the data have 2: " in problem.text and "(4,)" in problem.text
    assert takes in problem.suggestion
