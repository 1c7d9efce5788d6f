"""The step of several optimizers: whose turn it is, what is logged, and an exact resume."""

import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from helpers.tasks import PAIR
from helpers.training import Stop, same, training
from runner.optimizer.several import Several
from runner.rundir.checkpoint_file import load
from runner.task import StepError, Task
from runner.training.evaluation import evaluate
from runner.training.loop import fit
from runner.training.saving import restore
from runner.training.state import Interrupted, Training


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.second(self.first(inputs))


class InTurn(Task):
    """Records the weights that each turn sees."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, float, float]] = []

    def step(self, model: Any, batch: Any) -> Iterator[tuple[str, Tensor]]:
        inputs, targets = batch
        outputs = model(inputs)
        self._see("second", model)
        yield "second", nn.functional.cross_entropy(outputs, targets)
        self._see("first", model)
        yield "first", nn.functional.cross_entropy(model(inputs), targets)
        yield "size", outputs.norm(dim=1).mean()

    def _see(self, name: str, model: Any) -> None:
        self.seen.append((name, model.first.weight.sum().item(), model.second.weight.sum().item()))


def make(folder: Path, lr: float = 0.1, **changed: Any) -> Training:
    model = changed.pop("model", None) or Two()

    def optimizers(_: object) -> Several:
        parts = {"second": model.second.parameters(), "first": model.first.parameters()}
        return Several({name: torch.optim.SGD(weights, lr=lr, momentum=0.9) for name, weights in parts.items()})

    keys = {"epochs": 2, "batch_size": 32, "task": InTurn(), **changed}
    return training(folder, model=model, optimizer=optimizers, **keys)


def test_each_name_is_computed_with_the_weights_after_the_one_before(tmp_path: Path) -> None:
    state = make(tmp_path, epochs=1, max_steps=2)
    fit(state)
    seen = state.task.seen[:4]  # type: ignore[union-attr]
    names, firsts, seconds = zip(*seen, strict=True)
    assert names == ("second", "first", "second", "first")
    assert firsts[0] == firsts[1] != firsts[2], "the first layer steps in its own turn"
    assert seconds[0] != seconds[1] == seconds[2], "the second layer has stepped when the first is computed"
    assert state.progress.step == 2


def test_a_turn_gives_gradients_to_its_own_parameters_only(tmp_path: Path) -> None:
    state = make(tmp_path, epochs=1, max_steps=1, lr=0.0)
    gradients = []
    for name, part in state.optimizer.by_name.items():  # type: ignore[attr-defined]
        part.register_step_pre_hook(
            lambda *_, name=name: gradients.append(
                (name, [n for n, p in state.model.named_parameters() if p.grad is not None])
            )
        )
    fit(state)
    assert gradients == [
        ("second", ["second.weight", "second.bias"]),
        ("first", ["first.weight", "first.bias"]),
    ]


def test_all_that_is_yielded_is_logged(tmp_path: Path) -> None:
    state = make(tmp_path, log_every_steps=2)
    fit(state)
    log: Any = state.log
    for name in ("train/first", "train/second", "train/size", "val/first", "val/second", "val/size", "lr/first"):
        assert set(log.of(name)) == {1, 2}, name
    assert set(log.of("train/first_step")) == set(log.of("train/second_step")) == {2, 4, 6}
    assert not log.of("train/loss") and not log.of("train/loss_step")
    measured = evaluate(state, state.loaders.val)
    assert measured["first"] == pytest.approx(log.of("val/first")[2])
    assert measured["first"] == pytest.approx(measured["second"]), "in evaluation no optimizer steps in between"


@pytest.mark.parametrize("accumulation", [2, 4])
def test_accumulated_batches_are_one_large_batch(tmp_path: Path, accumulation: int) -> None:
    weights = []
    for count, size in ((accumulation, 32 // accumulation), (1, 32)):
        state = make(tmp_path / f"{count}", batch_size=size, grad_accumulation=count, precision="fp64")
        fit(state)
        assert state.progress.step == 6
        weights.append([weight.detach() for weight in state.model.parameters()])
    assert all(torch.allclose(*pair, rtol=0, atol=1e-10) for pair in zip(*weights, strict=True))


def test_a_loss_that_is_not_finite_skips_that_optimizer_only(tmp_path: Path) -> None:
    class Broken(InTurn):
        def step(self, model: Any, batch: Any) -> Iterator[tuple[str, Tensor]]:
            for name, loss in super().step(model, batch):
                yield name, loss * float("nan") if name == "first" and self.training else loss

    state = make(tmp_path, task=Broken(), epochs=1, on_nonfinite="skip")
    before = [weight.detach().clone() for weight in state.model.parameters()]
    fit(state)
    changed = [not torch.equal(*pair) for pair in zip(before, state.model.parameters(), strict=True)]
    assert changed == [False, False, True, True]


def test_a_step_in_which_no_optimizer_steps_does_not_count(tmp_path: Path) -> None:
    class First(InTurn):
        """Nothing is finite in the first step."""

        steps = 0

        def step(self, model: Any, batch: Any) -> Iterator[tuple[str, Tensor]]:
            self.steps += self.training
            for name, loss in super().step(model, batch):
                yield name, loss * float("nan") if self.steps == 1 and name != "size" else loss

    state = make(tmp_path, task=First(), epochs=1, on_nonfinite="skip", precision="fp16")
    fit(state)
    assert state.progress.step == len(state.loaders.train) - 1
    sizes = state.log.of("train/first")  # type: ignore[attr-defined]
    assert all(math.isfinite(value) and value > 0.5 for value in sizes.values()), "a mean over the other batches"


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("clip_norm", [None, 1.0])
def test_an_optimizer_may_step_several_times_in_a_step(tmp_path: Path, precision: str, clip_norm: float | None) -> None:
    class Critic(InTurn):
        def step(self, model: Any, batch: Any) -> Iterator[tuple[str, Tensor]]:
            for _ in range(3):
                self.seen.append(("second", 0.0, model.second.weight[0, 0].item()))
                yield "second", nn.functional.cross_entropy(model(batch[0]), batch[1])
            yield "first", nn.functional.cross_entropy(model(batch[0]), batch[1])

    state = make(tmp_path, task=Critic(), epochs=1, max_steps=2, precision=precision, clip_norm=clip_norm)
    fit(state)
    seconds = [second for _, _, second in state.task.seen[:6]]  # type: ignore[union-attr]
    assert len(set(seconds)) == 6, "each repetition sees the weights after the one before"
    assert state.progress.step == 2


def test_batches_of_a_step_must_agree(tmp_path: Path) -> None:
    class Uneven(InTurn):
        def step(self, model: Any, batch: Any) -> Iterator[tuple[str, Tensor]]:
            yield ("first", "second")[len(batch[0]) % 2], model(batch[0]).mean()

    state = make(tmp_path, task=Uneven(), batch_size=20, grad_accumulation=5)
    with pytest.raises(StepError, match="different names"):
        fit(state)


def test_a_resumed_step_is_exact(tmp_path: Path) -> None:
    whole = make(tmp_path / "whole", schedule=None)
    fit(whole)
    stopped = make(tmp_path / "stopped", stop=Stop(after=4))
    with pytest.raises(Interrupted):
        fit(stopped)
    assert stopped.progress.batch, "within an epoch"
    again = make(tmp_path / "again")
    restore(again, load(stopped.checkpoints.last))
    fit(again)
    one, other = (load(state.checkpoints.last) for state in (whole, again))
    assert same(one["model"], other["model"]) and same(one["optimizer"], other["optimizer"])
    assert again.log.of("train/first")[2] == whole.log.of("train/first")[2]  # type: ignore[attr-defined]


def test_a_command_trains_them_and_says_that_the_last_epoch_is_the_best(runner: Callable[..., Any]) -> None:
    called = runner(*PAIR, "trainer.epochs=2", "optimizers.generator.lr=0.001", "data.limit=200")
    assert called.code == 0
    (result,) = Path("outputs/runs").glob("*/result.json")
    values = json.loads(result.read_text())
    assert values["best_epoch"] == 2
    assert {"train/generator", "val/discriminator", "test/size", "lr/generator"} <= values.keys()
    assert "val/loss" not in values and 0 < values["lr/generator"] <= 0.001


def test_a_sweep_ranks_by_no_loss_of_an_optimizer(runner: Callable[..., Any]) -> None:
    typed = ("--multirun", *PAIR, "optimizers.generator.lr=0.001,0.002", "debug=fast", "tracking=off")
    called = runner(*typed, "hydra.sweep.dir=sweep")
    assert called.code == 0, called.err
    assert "write sweep.metric=val/size\n" in called.err and "\nbest  " not in called.err
    assert json.loads(Path("sweep/jobs.json").read_text())["best"] is None
    searched = runner(*typed, "hydra/sweeper=optuna", "sweep.dry_run=true")
    assert searched.about == [("sweep.metric", "missing")]
