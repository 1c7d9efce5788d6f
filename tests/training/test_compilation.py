import random
from copy import deepcopy
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from helpers.problems import about
from helpers.training import Stop, net, same, training
from runner.errors import ConfigError
from runner.loss import CrossEntropy
from runner.rundir.checkpoint import load
from runner.training.compilation import compile_model
from runner.training.loop import fit
from runner.training.saving import checkpoint_state, restore
from runner.training.state import Interrupted


@pytest.fixture
def quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Use torch.compile without code generation, which takes half a minute."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))


@pytest.fixture(autouse=True)
def _forget() -> None:
    torch._dynamo.reset()


def with_statistics() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 3))


@pytest.mark.usefixtures("quickly")
def test_it_leaves_everything_as_it_was(tmp_path: Path) -> None:
    state = training(tmp_path, model=with_statistics(), ema_decay=0.9)
    before = {name: tensor.clone() for name, tensor in state.model.state_dict().items()}
    random = torch.get_rng_state()
    assert compile_model(state) > 0
    assert same(before, dict(state.model.state_dict()))
    assert torch.equal(random, torch.get_rng_state())
    assert all(p.grad is None for p in state.model.parameters())
    assert state.model.training


class Drawing(nn.Module):
    """Draws from every kind of generator, and counts in every kind of state."""

    def __init__(self) -> None:
        super().__init__()
        self.net, self.own, self.calls, self.extra = net(), torch.Generator().manual_seed(1), 0, 0
        self.register_buffer("seen", torch.zeros(()), persistent=False)

    @torch.compiler.disable
    def count(self) -> float:
        self.calls, self.extra = self.calls + 1, self.extra + 1
        self.seen += 1
        return random.random() + np.random.rand() + torch.rand((), generator=self.own).item() + torch.rand(()).item()

    def forward(self, inputs: Tensor) -> Tensor:
        return self.net(inputs * self.count())

    def get_extra_state(self) -> int:
        return self.extra

    def set_extra_state(self, state: int) -> None:
        self.extra = state


class CountingLoss(CrossEntropy):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        self.seen += 1
        return super().forward(outputs, targets)


@pytest.mark.usefixtures("quickly")
def test_every_generator_and_all_state_is_left_as_it_was(tmp_path: Path) -> None:
    state = training(tmp_path, model=Drawing(), loss=CountingLoss(), ema_decay=0.9)
    before = deepcopy(checkpoint_state(state))
    compile_model(state)
    assert same(before, checkpoint_state(state))
    assert state.model.calls == 0
    assert state.eval_model.calls == 0


@pytest.mark.usefixtures("quickly")
def test_nothing_is_compiled_within_an_epoch(tmp_path: Path) -> None:
    state = training(tmp_path, epochs=3)  # 81 samples in batches of 32: full ones and a rest
    compile_model(state)
    compiled = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    assert compiled
    fit(state)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == compiled


@pytest.mark.usefixtures("quickly")
def test_a_stop_is_answered_before_all_is_compiled(tmp_path: Path) -> None:
    state = training(tmp_path, model=with_statistics(), stop=Stop(after=1))
    before = {name: tensor.clone() for name, tensor in state.model.state_dict().items()}
    torch._dynamo.utils.counters.clear()
    compile_model(state)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1, "only full training batches"
    assert same(before, dict(state.model.state_dict())) and state.model.training
    with pytest.raises(Interrupted):
        fit(state)
    assert state.progress.step == 0
    whole, resumed = training(tmp_path / "whole", model=with_statistics()), training(tmp_path, model=with_statistics())
    restore(resumed, load(state.checkpoints.last))
    for again in (whole, resumed):
        compile_model(again)
        fit(again)
    assert same(dict(whole.model.state_dict()), dict(resumed.model.state_dict()))
    assert whole.log.exact() == resumed.log.exact()


def test_the_compiled_model_learns_the_same(tmp_path: Path) -> None:
    losses = []
    for compiled in (False, True):
        state = training(tmp_path / str(compiled), model=net(), epochs=2)
        if compiled:
            compile_model(state)
        fit(state)
        losses.append(state.log.of("val/loss")[2])
        assert set(torch.load(state.checkpoints.last, weights_only=True)["model"]) == set(net().state_dict())
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_a_missing_compiler_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from runner.device import resolve

    monkeypatch.setenv("PATH", "")
    with pytest.raises(ConfigError) as error:
        resolve("cpu", threads=1).check_compiler()
    assert about(error) == [("trainer.compile", "unavailable")]
    assert "C++" in str(error.value) and "trainer.compile=false" in error.value.problems[0].suggestion
