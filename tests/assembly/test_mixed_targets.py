"""Mixed targets and the losses that take them."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from helpers.composed import built, trained
from helpers.problems import about, problem_of
from helpers.training import Log, divided, supervised
from runner.assembly.mixing import fit_targets
from runner.data.augment import Augment, make_augment
from runner.data.source import Source
from runner.data.splits import Splits
from runner.loss import MSE, BCEWithLogits, CrossEntropy, Loss, correct


def rows(targets: Tensor) -> Splits:
    return divided(Source("rows", (torch.randn(len(targets), 4), targets)))


def fitted(loss: Loss, splits: Splits, num_outputs: int) -> Augment:
    augment = make_augment(splits, mixup={"alpha": 1})
    assert augment is not None
    return fit_targets(augment, supervised(loss), splits, (num_outputs,), torch.float64)


def test_classes_become_probabilities_and_values_stay_values() -> None:
    classes = fitted(CrossEntropy(), rows(torch.arange(20) % 3), 3).mixing
    assert classes is not None and (classes.classes, classes.dtype) == (3, torch.float64)
    for loss, targets in ((MSE(), torch.randn(20)), (BCEWithLogits(), (torch.rand(20, 2) > 0.5).float())):
        values = fitted(loss, rows(targets), 2 if targets.ndim == 2 else 1).mixing
        assert values is not None and values.classes is None


def test_the_loss_of_mixed_targets_is_the_mix_of_the_losses() -> None:
    outputs, one, other = torch.randn(8, 3, dtype=torch.float64), torch.arange(8) % 3, torch.arange(8) % 2
    mixed = 0.3 * functional.one_hot(one, 3) + 0.7 * functional.one_hot(other, 3).double()
    loss = CrossEntropy()
    torch.testing.assert_close(loss(outputs, mixed), 0.3 * loss(outputs, one) + 0.7 * loss(outputs, other))
    assert correct(outputs, mixed) == correct(outputs, other)  # it has the larger share


class OnlyIndices(CrossEntropy):
    """A loss that does not take probabilities."""

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return outputs.gather(1, targets.unsqueeze(1)).mean()


class Undefined(CrossEntropy):
    """A loss that is not a number."""

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return outputs.sum() / 0


class Pairs(CrossEntropy):
    """A loss with two classes for a sample."""

    def prepare(self, targets: Tensor, dtype: torch.dtype) -> Tensor:
        return torch.stack([targets, targets], 1)


@pytest.mark.parametrize("loss", [OnlyIndices(), Undefined(), Pairs()])
def test_a_loss_that_does_not_take_them_is_an_error_before_the_start(loss: Loss) -> None:
    problem = problem_of(lambda: fitted(loss, rows(torch.arange(20) % 3), 3))
    assert about([problem]) == [("data.augment.mixup.alpha", "conflict")]
    assert problem.suggestion == "write data.augment.mixup.alpha=0"


def test_other_tasks_than_supervised_do_not_take_mixed_samples(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (here / "own.py").write_text(
        "from runner.task import Task\n"
        "class Own(Task):\n"
        "    def step(self, model, batch):\n"
        "        return model(batch[0]).square().mean()\n"
    )
    monkeypatch.syspath_prepend(here)
    problem = problem_of(lambda: built("task=custom", "task._target_=own.Own", "data.augment=mixup"))
    assert about([problem]) == [("data.augment.mixup.alpha", "conflict")]


@pytest.mark.parametrize("asked", ["[mixup,cutmix]", "[{mixup: 0.3}]"])
def test_training_sees_mixed_targets_and_validation_does_not(asked: str, here: Path) -> None:
    made = built("data.limit=100", f"data.augment={asked}", "precision=fp64")
    _, targets = next(iter(made.loaders.train.epoch(1)))
    assert targets.shape == (32, 10) and targets.dtype == torch.float64
    val: Any = made.loaders.val
    assert next(iter(val.epoch(1)))[1].dtype == torch.int64


def test_train_metrics_are_of_the_mixed_samples(here: Path) -> None:
    state = trained(here, "data.augment.mixup.alpha=1", "trainer.epochs=6")
    assert isinstance(state.log, Log)
    # Half of a mixed target cannot be predicted: the loss stays high, while the network is good.
    assert state.log.of("train/loss")[6] > 0.6 and state.log.of("val/accuracy")[6] > 0.85
    assert 0 < state.log.of("train/accuracy")[6] < state.log.of("val/accuracy")[6]


def test_regressions_and_tables_are_mixed_too(here: Path) -> None:
    lines = [f"{a},{a % 7},{2 * a - a % 7}" for a in range(60)]
    (here / "table.csv").write_text("a,b,y\n" + "\n".join(lines) + "\n")
    state = trained(
        here, "data=csv", "data.path=table.csv", "loss=mse", "data.target_type=number", "data.augment=mixup",
        "trainer.epochs=30", "data.batch_size=8",
    )  # fmt: skip
    assert isinstance(state.log, Log)
    assert state.log.of("val/r2")[30] > 0.9
