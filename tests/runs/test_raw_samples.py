"""What a run keeps of the raw samples once its batches have a copy."""

import weakref
from pathlib import Path
from typing import Any

import pytest
import torch

from helpers.composed import built
from runner.runs import execute
from runner.runs.describe import make_input_spec

SMALL = ("device=cpu", "tracking=off", "data.limit=300", "trainer.epochs=1")


def test_while_it_trains_a_run_has_no_second_copy_of_the_training_samples(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = built(*SMALL)
    raw: Any = weakref.ref(experiment.splits.train.inputs)
    train, alive = execute.train, list[bool]()

    def spy(*arguments: Any) -> str | None:
        alive.append(raw() is not None)
        return train(*arguments)

    monkeypatch.setattr(execute, "train", spy)
    assert raw() is not None
    assert execute.run(experiment, tmp_path).status == "FINISHED"
    assert alive == [False]
    assert experiment.splits.sizes["train"] == 240


def test_examples_stand_for_all_training_samples() -> None:
    experiment = built(*SMALL)
    all_of_them, few = experiment.splits, experiment.splits.with_examples()
    assert (len(all_of_them.train), len(few.train)) == (240, 64)
    assert few.sizes == all_of_them.sizes
    for one, other in zip(few.example(64), all_of_them.example(64), strict=True):
        assert torch.equal(torch.as_tensor(one), torch.as_tensor(other))
    spec = make_input_spec(experiment)
    experiment.splits = few
    assert make_input_spec(experiment) == spec
