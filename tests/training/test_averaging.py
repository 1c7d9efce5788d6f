from pathlib import Path

import pytest
import torch

from helpers.operations import Operations
from helpers.training import net, training
from runner.rundir.checkpoint_file import load
from runner.rundir.checkpoint_parts import best_weights
from runner.training.averaging import WeightAverage
from runner.training.evaluation import evaluate
from runner.training.loop import fit


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


def test_what_is_no_floating_point_number_is_copied() -> None:
    model = torch.nn.BatchNorm1d(2)
    made = {
        "index": torch.arange(400),
        "mask": torch.zeros(3, dtype=torch.bool),
        "spectrum": torch.ones(2, dtype=torch.complex64),
        "causal": torch.full((2, 2), float("-inf")).triu(1),
        "table": torch.ones(2).to(torch.float8_e4m3fn),
        "bytes": torch.arange(3, dtype=torch.uint8),
        "halves": torch.zeros(2, dtype=torch.float16),
    }
    for name, tensor in made.items():
        model.register_buffer(name, tensor)
    average = WeightAverage(model, decay=0.9)
    for step in range(3):
        with torch.no_grad():
            model.num_batches_tracked += 1
            model.mask[step] = True
            model.index += 1
            model.spectrum *= 2j
            model.halves += 1
        average.update(model)
        own = average.model.state_dict()
        for name in ("index", "mask", "spectrum", "causal", "table", "bytes", "num_batches_tracked"):
            assert own[name].dtype == model.state_dict()[name].dtype
            assert torch.equal(own[name], model.state_dict()[name]), name
    assert own["halves"].tolist() == pytest.approx([1.29] * 2, rel=1e-2), "and a float buffer is averaged"


class Growing(torch.nn.Module):
    """Creates a buffer in its first step, replaces another in each step, and has extra state."""

    def __init__(self) -> None:
        super().__init__()
        self.net, self.steps = net(), 0
        self.register_buffer("first", None)
        self.register_buffer("seen", torch.zeros(1))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        if self.training:
            self.first = inputs[0].clone() if self.first is None else self.first
            self.seen, self.steps = torch.zeros(len(self.seen) + 1), self.steps + 1
        return self.net(inputs)

    def get_extra_state(self) -> dict[str, int]:
        return {"steps": self.steps}

    def set_extra_state(self, state: dict[str, int]) -> None:
        self.steps = state["steps"]


def test_buffers_made_in_training_and_extra_state_are_the_model_s(tmp_path: Path) -> None:
    state = training(tmp_path, model=Growing(), ema_decay=0.9, epochs=2)
    fit(state)
    assert state.average is not None
    model = state.average.model
    assert isinstance(model, Growing) and model.steps == 6 and len(model.seen) == 7 and model.first is not None


def test_a_step_asks_the_device_for_nothing_and_moves_nothing_there() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2), torch.nn.Linear(2, 1).double())
    average = WeightAverage(model, decay=0.5)
    average.update(model)
    with Operations() as operations:
        average.update(model)
    assert operations.names and not operations.names & {"_local_scalar_dense", "_to_copy"}


def test_validation_and_the_best_checkpoint_are_of_the_average(tmp_path: Path) -> None:
    state = training(tmp_path, ema_decay=0.9, epochs=3)
    fit(state)
    assert state.average is not None
    averaged = state.average.model.state_dict()
    assert any(not torch.equal(averaged[name], tensor) for name, tensor in state.model.state_dict().items())
    assert evaluate(state, state.loaders.val)["loss"] == state.log.of("val/loss")[3]
    saved = load(state.checkpoints.last)
    assert all(torch.equal(best_weights(saved)[name], tensor) for name, tensor in averaged.items())
    assert all(torch.equal(saved["model"][name], tensor) for name, tensor in state.model.state_dict().items())


def test_it_leaves_training_as_it_is(tmp_path: Path) -> None:
    states = []
    for decay in (None, 0.9):
        state = training(tmp_path / str(decay), model=net(dropout=0.3), ema_decay=decay, epochs=2)
        fit(state)
        states.append(state.model.state_dict())
        losses = state.log.of("train/loss")
        assert len(losses) == 2
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
