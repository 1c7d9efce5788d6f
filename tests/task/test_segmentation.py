from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import jaccard_score
from torch import Tensor, nn

from helpers.composed import built, trained
from helpers.problems import problem_of
from runner.errors import ConfigError
from runner.loss import MSE, BCEWithLogits, CrossEntropy
from runner.task import Task
from runner.task.segmentation import Segmentation
from runner.training.running_metrics import RunningMetrics

K = 4


def task(loss: Any = None, **arguments: Any) -> Segmentation:
    made = Segmentation(**arguments)
    made.loss = loss or CrossEntropy()
    return made


def measured(made: Task, batches: list[tuple[Tensor, Tensor]]) -> dict[str, float]:
    """The metrics of a model that returns what it gets."""
    sums = RunningMetrics(made, torch.device("cpu"))
    for scores, masks in batches:
        sums.add(made.measure(nn.Identity(), (scores, made.prepare(masks, torch.float32))))
    return sums.means()


@pytest.mark.parametrize("ignored", [False, True])
def test_loss_and_metrics_are_those_over_all_pixels(ignored: bool) -> None:
    torch.manual_seed(0)
    made = task(CrossEntropy(ignore_index=255) if ignored else None)
    masks = torch.randint(3, (7, 5, 6))  # the class 3 is predicted, never true
    scores = torch.randn(7, K, 5, 6) + 2 * nn.functional.one_hot(masks, K).permute(0, 3, 1, 2)
    if ignored:
        masks[torch.rand(masks.shape) < 0.3] = 255
        masks[0] = 255
    made.num_outputs(masks, ["ground", "cat", "dog/wolf", "none"])
    batches = list(zip(scores.split(3), masks.split(3), strict=True))
    counted = (masks != 255).numpy()
    true, predicted = masks.numpy()[counted], scores.argmax(1).numpy()[counted]
    of_class = jaccard_score(true, predicted, labels=range(K), average=None)
    found = measured(made, batches)
    assert found["accuracy"] == pytest.approx((true == predicted).mean(), abs=1e-9)
    assert found["iou"] == pytest.approx(of_class.mean(), abs=1e-9)
    assert [found[f"iou/{name}"] for name in ("ground", "cat", "dog_wolf", "none")] == pytest.approx(list(of_class))
    expected = nn.functional.cross_entropy(scores, masks, ignore_index=255)
    assert found["loss"] == pytest.approx(expected.item(), rel=1e-6)


def test_a_class_that_is_neither_predicted_nor_true_does_not_count() -> None:
    masks = torch.tensor([[[0, 0, 1, 1]]])
    scores = nn.functional.one_hot(torch.tensor([[[0, 1, 1, 1]]]), K).permute(0, 3, 1, 2).float()
    made = task()
    made.num_outputs(masks, list("abcd"))
    found = measured(made, [(scores, masks)])
    assert found["iou"] == pytest.approx((1 / 2 + 2 / 3) / 2)
    assert "iou/c" not in found and found["iou/b"] == pytest.approx(2 / 3)
    assert all(made.higher_is_better(f"val/{name}") for name in ("iou", "iou/a", "accuracy"))


class Torchvision(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scores = nn.Conv2d(3, K, 1)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        return {"out": self.scores(image), "aux": self.scores(image) * 0}


@pytest.mark.parametrize(
    ("item", "keys"),
    [
        ((torch.rand(2, 3, 4, 4), torch.zeros(2, 4, 4)), None),
        ((torch.rand(2, 3, 4, 4), torch.zeros(2, 1, 4, 4)), None),
        ({"image": torch.rand(2, 3, 4, 4), "labels": torch.zeros(2, 4, 4)}, None),
        ({"image": torch.rand(2, 3, 4, 4), "mask": torch.zeros(2, 4, 4)}, "mask"),
    ],
)
def test_items_are_divided_and_the_outputs_of_a_dict_are_its_out(item: Any, keys: str | None) -> None:
    made = task(targets=keys)
    inputs, masks = made.divide(item)
    step = made.measure(Torchvision(), (inputs, made.prepare(masks, torch.float32)))
    assert step.outputs.shape == (2, K, 4, 4) and step.outputs.abs().sum() > 0
    assert step.targets.shape == (2, 4, 4) and step.targets.dtype == torch.int64


def test_a_prediction_is_a_mask_and_its_probabilities() -> None:
    scores = torch.randn(2, K, 5, 6)
    made = task().predict(nn.Identity(), scores)
    assert torch.equal(made["mask"], scores.argmax(1))
    torch.testing.assert_close(made["probabilities"], scores.softmax(1))


def test_samples_are_drawn_with_their_masks() -> None:
    scores, masks = torch.randn(2, K, 5, 6), torch.randint(K, (2, 5, 6))
    shown = task(CrossEntropy(ignore_index=1)).pictures(nn.Identity(), (scores, masks))
    assert list(shown) == ["image", "mask", "prediction"]
    assert shown["image"] is scores
    assert torch.equal(shown["mask"], masks.where(masks != 1, -1)), "what does not count has no class"
    assert torch.equal(shown["prediction"], scores.argmax(1))


@pytest.mark.parametrize(
    ("masks", "classes", "outputs"), [([0, 1, 2], None, 3), ([0, 3], None, 4), ([0, 1], ["a", "b", "c"], 3)]
)
def test_outputs_are_one_a_class(masks: list[int], classes: Any, outputs: int) -> None:
    assert task().num_outputs(torch.tensor(masks).reshape(1, 1, -1), classes) == outputs
    marked = torch.tensor([*masks, 255]).reshape(1, 1, -1)
    assert task(CrossEntropy(ignore_index=255)).num_outputs(marked, classes) == outputs


@pytest.mark.parametrize(
    ("loss", "masks", "classes", "about", "shown"),
    [
        (MSE(), torch.zeros(1, 2, 2).long(), None, ("loss", "conflict"), "loss=mse"),
        (BCEWithLogits(), torch.zeros(1, 2, 2).long(), None, ("loss", "conflict"), "loss=bce_with_logits"),
        (None, torch.zeros(4).long(), None, ("data", "shape"), "torch.int64 (N)"),
        (None, torch.rand(1, 2, 2), None, ("data", "shape"), "float32 (N, 2, 2)"),
        (None, torch.tensor([[[0, 1, 255]]]), None, ("data", "data"), "class 255"),
        (None, torch.tensor([[[0, 1, -1]]]), None, ("data", "data"), "class -1"),
        (None, torch.tensor([[[0, 5]]]), ["a", "b"], ("data", "data"), "2 classes"),
        (None, torch.tensor([[[0, 0]]]), None, ("data", "data"), "single class"),
    ],
)
def test_masks_and_losses_that_do_not_fit_are_refused(
    loss: Any, masks: Tensor, classes: Any, about: tuple[str, str], shown: str
) -> None:
    problem = problem_of(lambda: task(loss).num_outputs(masks, classes))
    assert (problem.key, problem.topic) == about and shown in problem.text


def test_a_model_without_a_value_for_each_pixel_is_refused() -> None:
    problem = problem_of(lambda: built("task=segmentation", "data=shapes", "data.samples=20", "model=mlp"))
    assert (problem.key, problem.topic) == ("model", "shape") and "(N, 4)" in problem.text
    with pytest.raises(ConfigError):
        task().step(nn.Identity(), (torch.zeros(2, K, 4, 4), torch.zeros(2, 5, 4).long()))


def test_it_learns_to_find_shapes(tmp_path: Path) -> None:
    small = ("experiment=unet_shapes", "data.samples=150", "data.size=24", "model.channels=[8,16]", "device=cpu")
    state = trained(tmp_path, *small, "trainer.epochs=4", "optimizer.lr=0.02", "tracking=off")
    losses = state.log.of("val/loss")  # type: ignore[attr-defined]
    assert losses[4] < 0.75 * np.log(4)
    assert state.log.of("val/accuracy")[4] > 0.6  # type: ignore[attr-defined]
    assert set(state.log.of("train/iou/disc")) == {1, 2, 3, 4}  # type: ignore[attr-defined]
