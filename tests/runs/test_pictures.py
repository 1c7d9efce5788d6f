"""Which samples of a run are drawn, in which units, and that other runs draw none."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from helpers.composed import built
from helpers.training import Log, Silent, Stop
from runner.assembly.experiment import Experiment
from runner.rundir.checkpoint import Checkpoints
from runner.runs import report
from runner.runs.pictures import make_pictures
from runner.task import Task
from runner.training.predictions import Predictions
from runner.training.state import Training, make_training

SMALL = ("device=cpu", "tracking=off", "data.limit=60")


class Mirrored(Task):
    """A user's task that draws its samples, which it predicts as mirrored."""

    def step(self, model: nn.Module, batch: Any) -> Tensor:
        return model(batch[0]).square().mean()

    def pictures(self, model: nn.Module, batch: Any) -> dict[str, Tensor]:
        assert not self.training and not model.training and not torch.is_grad_enabled()
        images, digits = batch
        return {"image": images, "mirrored": images.flip(-1), "noise": torch.randn_like(images), "n": digits_of(digits)}


def digits_of(digits: Tensor) -> Tensor:
    return digits.reshape(-1, 1, 1).expand(-1, 2, 2)


def ready(folder: Path, *overrides: str) -> tuple[Training, Experiment]:
    experiment = built(*SMALL, *overrides)
    state = make_training(experiment, Checkpoints(folder / "checkpoints"), Log(), Silent(), Stop())
    return state, experiment


OWN = ("task=custom", f"task._target_={__name__}.Mirrored")


def test_they_are_spaced_validation_samples_in_the_units_of_the_data(tmp_path: Path) -> None:
    state, experiment = ready(tmp_path, *OWN)
    shown, which = make_pictures(state, experiment, 4)
    val = experiment.splits.val
    assert val is not None and which == f"4 of {len(val)} validation samples"
    raw, digits = val.example(4)
    torch.testing.assert_close(shown["image"], raw.double(), atol=1e-4, rtol=0)
    torch.testing.assert_close(shown["mirrored"], raw.double().flip(-1), atol=1e-4, rtol=0)
    assert torch.equal(shown["n"], digits_of(digits))


def test_what_a_task_draws_at_random_is_the_same_each_time_and_changes_no_training(tmp_path: Path) -> None:
    state, experiment = ready(tmp_path, *OWN)
    before = torch.get_rng_state()
    first, second = (make_pictures(state, experiment, 4)[0]["noise"] for _ in range(2))
    assert torch.equal(first, second) and torch.equal(torch.get_rng_state(), before)


def test_without_validation_samples_those_of_the_test_are_drawn(tmp_path: Path) -> None:
    state, experiment = ready(tmp_path, *OWN, "data.val_fraction=0")
    assert make_pictures(state, experiment, 4)[1].endswith(" test samples")


@pytest.mark.parametrize(
    ("overrides", "drawn"), [((), False), (("task=autoencoder",), True), (OWN, True)], ids=["supervised", "own", "user"]
)
def test_the_plot_is_there_where_the_task_draws(overrides: tuple[str, ...], drawn: bool, tmp_path: Path) -> None:
    state, experiment = ready(tmp_path, *overrides)
    report.draw_plots(state, experiment, Predictions(state.task), tmp_path)
    assert (tmp_path / "plots" / "samples.png").is_file() == drawn
