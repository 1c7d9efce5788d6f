"""Buffers that `state_dict` leaves out: in checkpoints, resumed runs and loaded weights."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from helpers.training import exact_state, same, supervised, training
from runner.loss import CrossEntropy
from runner.rundir.checkpoint_file import load
from runner.rundir.checkpoint_parts import best_weights, load_task, weight_buffers
from runner.saved.weights import Weights, load_exactly
from runner.training.loop import fit
from runner.training.saving import load_weights, restore
from runner.training.state import Training
from runner.util.buffers import load_buffers, load_module, unsaved_buffers


class Drifting(nn.Module):
    """A model whose input is scaled by a non-persistent buffer that counts batches."""

    seen: Tensor

    def __init__(self, lazy: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3))
        self.inner = nn.Module()
        self.inner.register_buffer("seen", None if lazy else torch.zeros(()), persistent=False)

    def forward(self, inputs: Tensor) -> Tensor:
        if self.inner.seen is None:
            self.inner.seen = torch.zeros(())
        if self.training:
            self.inner.seen += 0.01
        return self.layers(inputs * (1 + self.inner.seen))


class Lazy(nn.Module):
    """A model that creates a buffer in its first batch, grows another, and removes two, one of them persistent."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3))
        self.register_buffer("mean", None)
        self.register_buffer("means", torch.zeros(0))
        self.register_buffer("first", torch.full((1,), 0.5))
        self.register_buffer("second", torch.full((1,), 0.5), persistent=False)

    def forward(self, inputs: Tensor) -> Tensor:
        if self.first is not None and self.second is not None:
            inputs = inputs * self.first * self.second
        if self.training:
            self.first = self.second = None
            now = inputs.mean().detach().reshape(1)
            self.mean = now if self.mean is None else 0.9 * self.mean + 0.1 * now
            self.means = torch.cat([self.means, now])[-5:]
        return self.layers(inputs - (0 if self.mean is None else self.mean))


class Weighted(CrossEntropy):
    """A loss with class weights from counts: a persistent buffer, and one that is not."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("counts", torch.ones(3))
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64), persistent=False)

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        if self.training:
            self.counts += torch.bincount(targets, minlength=3)
            self.calls += 1
        weight = self.counts.sum() / self.counts + self.calls / 100
        return nn.functional.cross_entropy(outputs, targets, weight=weight.to(outputs.dtype))


def test_buffers_that_a_state_dict_leaves_out_are_collected_and_loaded() -> None:
    model = Drifting()
    assert set(unsaved_buffers(model)) == {"inner.seen"}
    was = model.inner.seen
    load_buffers(model, {"inner.seen": torch.tensor(3.0), "gone.seen": torch.zeros(1)})
    assert model.inner.seen is was and was.item() == 3.0, "changed in place, for other references to it"
    lazy = Drifting(lazy=True)
    assert unsaved_buffers(lazy) == {"inner.seen": None}
    load_buffers(lazy, {"inner.seen": torch.tensor(2.0)})
    assert unsaved_buffers(lazy)["inner.seen"].item() == 2.0


def uninterrupted(make: Callable[[str, int], Training]) -> tuple[Training, dict[str, Any]]:
    """Train 4 epochs at once, and 2 + 2 epochs with a resume; the last checkpoints are equal.

    Returns:
        The uninterrupted training, and the exact state of its last checkpoint.
    """
    whole, parts = make("whole", 4), make("parts", 2)
    fit(whole)
    fit(parts)
    resumed = make("resumed", 4)
    restore(resumed, load(parts.checkpoints.last))
    fit(resumed)
    expected, actual = (exact_state(load(state.checkpoints.last)) for state in (whole, resumed))
    assert same(expected, actual), [key for key in expected if not same(expected[key], actual[key])]
    return whole, expected


@pytest.mark.parametrize("lazy", [False, True])
def test_a_resumed_run_has_every_buffer_of_model_average_and_loss(lazy: bool, tmp_path: Path) -> None:
    ema_decay = None if lazy else 0.9

    def make(folder: str, epochs: int) -> Training:
        return training(tmp_path / folder, model=Drifting(lazy), loss=Weighted(), epochs=epochs, ema_decay=ema_decay)

    _, saved = uninterrupted(make)
    assert set(saved["buffers"]) == {"model", "loss"} | (set() if lazy else {"ema"})
    assert set(saved["loss"]) == {"counts"}
    assert saved["buffers"]["model"]["inner.seen"].item() > 0.1


@pytest.mark.parametrize("ema_decay", [None, 0.9])
def test_a_buffer_that_training_creates_replaces_or_removes_is_loaded_again(
    tmp_path: Path, ema_decay: float | None
) -> None:
    def make(folder: str, epochs: int) -> Training:
        return training(tmp_path / folder, model=Lazy(), epochs=epochs, ema_decay=ema_decay)

    whole, _ = uninterrupted(make)
    fresh = make("fresh", 1)
    load_weights(fresh, load(whole.checkpoints.best))
    assert fresh.model.mean is not None and len(fresh.model.means) == 5 and fresh.model.first is None
    loaded, last = Lazy(), load(whole.checkpoints.last)
    load_exactly(loaded, Weights(best_weights(last), "here", buffers=weight_buffers(last)), "run")
    assert len(loaded.means) == 5 and loaded.mean is not None and loaded.first is None and loaded.second is None
    with pytest.raises(RuntimeError, match="Unexpected key"):
        load_module(Lazy(), {**Lazy().state_dict(), "other": torch.ones(1)})


def test_the_best_is_measured_with_the_buffers_and_the_loss_that_it_had(tmp_path: Path) -> None:
    state = training(tmp_path, model=Drifting(), loss=Weighted(), epochs=2)
    fit(state)
    best = load(state.checkpoints.best)
    state.model.inner.seen.zero_()
    state.task.loss.counts.fill_(9)
    load_weights(state, best)
    assert state.model.inner.seen.item() == weight_buffers(best)["inner.seen"].item() > 0
    assert torch.equal(state.task.loss.counts, best["loss"]["counts"]) and state.task.loss.calls > 0
    fresh = Weighted()
    load_task(supervised(fresh), {"format": 1})
    assert fresh.counts.tolist() == [1, 1, 1], "a checkpoint of 0.1.0 has no state of the loss"
