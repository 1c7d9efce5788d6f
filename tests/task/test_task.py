"""The base class of tasks, with small tasks as users write them."""

from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from helpers.composed import built
from helpers.training import training
from runner.rundir.checkpoint_file import load
from runner.task import StepError, Task
from runner.training.evaluation import evaluate
from runner.training.loop import fit
from runner.training.saving import restore


class Queue(Task):
    """A loss with a term of its own, a weight, and a buffer that training changes."""

    def __init__(self) -> None:
        super().__init__()
        self.temperature = nn.Parameter(torch.tensor(1.0))
        self.teacher = nn.Linear(6, 3).requires_grad_(False)
        self.register_buffer("seen", torch.zeros(()))

    def step(self, model: nn.Module, batch: Any) -> dict[str, Tensor]:
        inputs, targets = batch
        logits = model(inputs) * self.temperature
        if self.training:
            self.seen += len(inputs)
        penalty = (logits - self.teacher(inputs)).square().mean()
        each = nn.functional.cross_entropy(logits, targets, reduction="none")
        weight = 1.0 + targets
        return {
            "loss": (each * weight).sum() / weight.sum() + 0.01 * penalty,
            "penalty": penalty,
            "weight": weight.sum(),
        }


def test_scalars_are_logged_and_parameters_of_the_task_are_trained(tmp_path: Path) -> None:
    state = training(tmp_path, task=Queue(), batch_size=32, epochs=3, optimizer=lambda p: torch.optim.SGD(p, lr=0.1))
    state.optimizer.add_param_group({"params": state.task.own_parameters()})
    fit(state)
    log = state.log.of("train/penalty")  # type: ignore[attr-defined]
    assert set(log) == {1, 2, 3} and all(value > 0 for value in log.values())
    assert set(state.log.of("val/penalty")) == {1, 2, 3}  # type: ignore[attr-defined]
    assert state.task.temperature.item() != 1.0
    assert len(state.task.own_parameters()) == 1, "a frozen teacher is not trained"
    saved = load(state.checkpoints.last)["task"]
    assert saved["seen"].item() == 3 * len(state.loaders.train.inputs)
    assert set(saved) == {"temperature", "seen", "teacher.weight", "teacher.bias"}
    fresh = training(tmp_path / "fresh", task=Queue())
    fresh.optimizer.add_param_group({"params": fresh.task.own_parameters()})
    restore(fresh, load(state.checkpoints.last))
    assert torch.equal(fresh.task.teacher.weight, state.task.teacher.weight)
    assert fresh.task.seen == saved["seen"]


def test_epoch_values_are_weighted_means(tmp_path: Path) -> None:
    state = training(tmp_path, task=Queue(), batch_size=7, epochs=1, optimizer=lambda p: torch.optim.SGD(p, lr=0.0))
    fit(state)
    inputs, targets = state.loaders.train.inputs, state.loaders.train.targets
    with torch.no_grad():
        losses = [
            (state.task.step(state.model, batch), (1 + batch[1]).sum())
            for batch in zip(inputs.split(7), targets.split(7), strict=True)
        ]
    weight = sum(float(w) for _, w in losses)
    measured = state.log.of("train/loss")[1]  # type: ignore[attr-defined]
    assert measured == pytest.approx(_mean_in_any_order(state, inputs, targets), rel=1e-5)
    assert weight == float((1 + targets).sum())


def _mean_in_any_order(state: Any, inputs: Tensor, targets: Tensor) -> float:
    """Return the mean loss with a penalty of all batches: both are sums over samples, whatever the batches are."""
    with torch.no_grad():
        logits = state.model(inputs)
        each = nn.functional.cross_entropy(logits, targets, reduction="none")
        weight = 1.0 + targets
        penalties = (logits - state.task.teacher(inputs)).square().mean(1)
        order = _batches(state)
        penalty = sum(float(penalties[index].mean() * weight[index].sum()) for index in order) / float(weight.sum())
    return float((each * weight).sum() / weight.sum()) + 0.01 * penalty


def _batches(state: Any) -> list[Tensor]:
    from runner.data.sampling import epoch_order

    loader = state.loaders.train
    return list(epoch_order(loader.samples, loader.seed, 1).split(loader.batch_size))


class Noisy(Task):
    """Draws in training and in evaluation."""

    def step(self, model: nn.Module, batch: Any) -> Tensor:
        inputs, targets = batch
        return nn.functional.cross_entropy(model(inputs + torch.randn_like(inputs)), targets)


def test_what_an_evaluation_draws_is_the_same_each_time_and_changes_no_training(tmp_path: Path) -> None:
    states = []
    for every in (1, 3):
        state = training(tmp_path / str(every), task=Noisy(), epochs=3, validate_every_epochs=every)
        fit(state)
        states.append(state)
        assert evaluate(state, state.loaders.val) == evaluate(state, state.loaders.val)
        assert evaluate(state, state.loaders.val)["loss"] == state.log.of("val/loss")[3]  # type: ignore[attr-defined]
    weights = [list(state.model.parameters()) for state in states]
    assert all(torch.equal(*pair) for pair in zip(*weights, strict=True))


class Pair(NamedTuple):
    image: Tensor
    digit: Tensor


def test_items_are_divided_where_they_are_pairs() -> None:
    task, one = Task(), torch.ones(2)
    assert task.divide((one, 3)) == (one, 3)
    assert task.divide([one, 3]) == (one, 3)
    assert task.divide(Pair(one, one)) == (Pair(one, one), None)
    assert task.divide({"a": one}) == ({"a": one}, None)
    assert task.divide((one, one, one)) == ((one, one, one), None)


@pytest.mark.parametrize(
    "returned",
    [None, {}, {"kl": torch.tensor(1.0)}, torch.ones(3), {"loss": torch.ones(2)}, {"loss": torch.tensor(1.0), "a": ""}],
)
def test_a_step_that_returns_no_loss_is_refused(returned: Any) -> None:
    class Wrong(Task):
        def step(self, model: nn.Module, batch: Any) -> Any:
            return returned

    with pytest.raises(StepError, match="step returns"):
        Wrong().measure(nn.Identity(), (torch.ones(4, 2), torch.ones(4)))


def test_a_loss_of_half_precision_is_converted() -> None:
    class Half(Task):
        def step(self, model: nn.Module, batch: Any) -> Tensor:
            return torch.tensor(0.5, dtype=torch.bfloat16)

    assert Half().measure(nn.Identity(), (torch.ones(4, 2), None)).loss.dtype == torch.float32


def test_what_a_task_draws_when_it_is_made_follows_the_seed() -> None:
    words = ["task=custom", "task._target_=helpers.tasks.Queue", "data=digits"]
    first, again, other = (built(*words, f"seed={seed}").task.get_buffer("queue") for seed in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)
