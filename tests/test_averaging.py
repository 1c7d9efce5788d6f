from pathlib import Path

import pytest
import torch

from operations import Operations
from runner import checkpoint
from runner.averaging import WeightAverage
from runner.loop import evaluate, fit
from training import net, training


def test_the_average_is_the_formula() -> None:
    model = torch.nn.Linear(1, 1, bias=False)
    average = WeightAverage(model, decay=0.75)
    expected = 0.0
    for step in range(5):
        with torch.no_grad():
            model.weight.fill_(step)
        average.update(model)
        expected = step if step == 0 else 0.75 * expected + 0.25 * step
        assert average.model.weight.item() == pytest.approx(expected)


def test_running_statistics_are_averaged_too() -> None:
    model = torch.nn.BatchNorm1d(2)
    average = WeightAverage(model, decay=0.5)
    average.update(model)
    with torch.no_grad():
        model.running_mean.fill_(1.0)
    average.update(model)
    assert average.model.running_mean.tolist() == [0.5, 0.5]


def test_a_step_asks_the_device_for_nothing_and_moves_nothing_there() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2), torch.nn.Linear(2, 1).double())
    average = WeightAverage(model, decay=0.5)
    average.update(model)
    with Operations() as operations:
        average.update(model)
    assert operations.names and not operations.names & {"_local_scalar_dense", "_to_copy"}


def test_validation_and_the_best_checkpoint_are_of_the_average(tmp_path: Path) -> None:
    t = training(tmp_path, ema_decay=0.9, epochs=3)
    fit(t)
    assert t.average is not None
    averaged = t.average.model.state_dict()
    assert any(not torch.equal(averaged[name], tensor) for name, tensor in t.model.state_dict().items())
    assert evaluate(t, t.loaders.val)["loss"] == t.log.of("val/loss")[3]
    saved = checkpoint.load(t.checkpoints.last)
    assert all(torch.equal(checkpoint.weights(saved)[name], tensor) for name, tensor in averaged.items())
    assert all(torch.equal(saved["model"][name], tensor) for name, tensor in t.model.state_dict().items())


def test_it_leaves_training_as_it_is(tmp_path: Path) -> None:
    states = []
    for decay in (None, 0.9):
        t = training(tmp_path / str(decay), model=net(dropout=0.3), ema_decay=decay, epochs=2)
        fit(t)
        states.append(t.model.state_dict())
        losses = t.log.of("train/loss")
        assert len(losses) == 2
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
