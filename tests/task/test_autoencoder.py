from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from helpers.composed import built, trained
from helpers.problems import problem_of
from runner.loss import MSE, BCEWithLogits
from runner.task.autoencoder import Autoencoder


def task(loss: Any = None) -> Autoencoder:
    made = Autoencoder()
    made.loss = loss or MSE()
    return made


class Pair(NamedTuple):
    image: Tensor
    labels: int


ONE = torch.ones(3, 4)


@pytest.mark.parametrize("item", [ONE, (ONE, 1), [ONE, 1], {"pixels": ONE, "labels": 1}, {"pixels": ONE}, Pair(ONE, 1)])
def test_the_inputs_of_an_item_are_all_of_it(item: Any) -> None:
    inputs, targets = task().divide(item)
    assert inputs is ONE and targets is None


@pytest.mark.parametrize("item", [(ONE, ONE, 1), {"a": ONE, "b": ONE}, ({"a": ONE, "b": ONE}, 1)])
def test_several_inputs_are_refused(item: Any) -> None:
    problem = problem_of(lambda: task().divide(item))
    assert (problem.key, problem.topic) == ("data", "code")


def test_outputs_are_compared_value_by_value_in_any_shape() -> None:
    torch.manual_seed(0)
    images, flat, square = torch.rand(5, 1, 4, 4), nn.Sequential(nn.Flatten(), nn.Linear(16, 16)), nn.Conv2d(1, 1, 1)
    for model in (flat, square):
        step = task().measure(model, (images, None))
        expected = model(images).reshape(images.shape)
        assert step.loss.item() == pytest.approx((expected - images).square().mean().item())
        assert step.samples == step.weight == 5
        torch.testing.assert_close(task().predict(model, images), expected)
    problem = problem_of(lambda: task().measure(nn.MaxPool2d(2), (images, None)))
    assert (problem.key, problem.topic) == ("model", "shape") and "(N, 1, 2, 2)" in problem.text


def test_images_are_drawn_above_their_reconstructions() -> None:
    images = torch.rand(2, 1, 4, 4)
    shown = task(BCEWithLogits()).pictures(nn.Identity(), images)
    assert list(shown) == ["input", "reconstruction"]
    assert shown["input"] is images and torch.equal(shown["reconstruction"], images.sigmoid())
    assert task().pictures(nn.Identity(), torch.rand(2, 16)) == {}, "a row of numbers is no picture"


def test_pixels_may_be_probabilities(tmp_path: Path) -> None:
    typed = ("task=autoencoder", "loss=bce_with_logits", "device=cpu", "tracking=off", "data.limit=100")
    problem = problem_of(lambda: built(*typed))
    assert (problem.key, problem.topic) == ("loss", "conflict")
    followed = problem.suggestion.removeprefix("write ").partition(",")[0].split()
    state = trained(tmp_path, *typed, *followed, "trainer.epochs=1")
    inputs = state.loaders.train.inputs[:5]  # type: ignore[union-attr]
    predicted = state.task.predict(state.model, inputs)
    assert predicted.shape == inputs.shape == (5, 1, 8, 8) and 0 <= predicted.min() <= predicted.max() <= 1
    assert isinstance(state.task.loss, BCEWithLogits)


def test_a_loss_of_classes_is_refused() -> None:
    problem = problem_of(lambda: built("task=autoencoder", "loss=cross_entropy", "tracking=off"))
    assert (problem.key, problem.topic) == ("loss", "conflict")


def test_it_learns_to_reconstruct_digits(tmp_path: Path) -> None:
    state = trained(
        tmp_path, "task=autoencoder", "optimizer=adamw", "optimizer.lr=0.003", "trainer.epochs=5", "device=cpu"
    )
    log: Any = state.log
    assert state.model(torch.zeros(1, 1, 8, 8)).shape == (1, 64)
    assert state.loaders.train.targets is None, "labels are not held"  # type: ignore[union-attr]
    assert log.of("val/loss")[5] < 0.3, "the mean image has 0.67"
    assert set(log.of("val/mae")) == set(range(1, 6)) and not log.of("val/r2")
