"""Class weights and ignored targets: the loss, what it is a mean over, and the accuracy."""

import numpy as np
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, one_hot

from helpers.problems import about
from runner.errors import ConfigError
from runner.loss import BCEWithLogits, CrossEntropy, Focal, Loss

MADE = torch.Generator().manual_seed(0)
WEIGHTS = [0.5, 2.0, 1.0]
OUTPUTS = {"one class a sample": (8, 3), "a class for each pixel": (4, 3, 5, 5), "a class for each token": (4, 3, 7)}


def outputs_and_targets(shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    outputs = torch.randn(shape, generator=MADE, dtype=torch.float64)
    targets = torch.randint(3, (shape[0], *shape[2:]), generator=MADE)
    targets[0] = -100
    return outputs, targets


@pytest.mark.parametrize("shape", OUTPUTS.values(), ids=OUTPUTS)
@pytest.mark.parametrize("weights", [None, WEIGHTS])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_is_that_of_torch_and_its_weight_the_divisor(
    shape: tuple[int, ...], weights: list[float] | None, smoothing: float
) -> None:
    outputs, targets = outputs_and_targets(shape)
    loss = CrossEntropy(smoothing, weights, ignore_index=-100)
    factors = torch.tensor(weights or [1.0] * 3, dtype=torch.float64)
    expected = cross_entropy(outputs, targets, factors, label_smoothing=smoothing)
    torch.testing.assert_close(loss(outputs, targets), expected)
    weight = loss.denominator(outputs, targets)
    assert weight is not None
    torch.testing.assert_close(weight, factors[targets[targets >= 0]].sum())
    total = cross_entropy(outputs, targets, factors, label_smoothing=smoothing, reduction="sum")
    torch.testing.assert_close(weight * expected, total)


@pytest.mark.parametrize("loss", [CrossEntropy(ignore_index=1), CrossEntropy(0, WEIGHTS, 1), Focal(ignore_index=1)])
def test_a_batch_of_ignored_targets_has_loss_0_and_weight_0(loss: Loss) -> None:
    outputs, targets = torch.randn(4, 3, requires_grad=True), torch.ones(4, dtype=torch.int64)
    value = loss(outputs, targets)
    value.backward()
    assert value == 0 and loss.denominator(outputs, targets) == 0
    assert outputs.grad is not None and not outputs.grad.any()
    assert loss.metrics["accuracy"].value(loss.metrics["accuracy"].sums(outputs, targets).tolist(), 4) is None


def test_samples_are_the_weight_where_each_has_one_target() -> None:
    outputs, targets = torch.randn(4, 3), torch.tensor([0, 2, 1, 1])
    assert CrossEntropy().denominator(outputs, targets) is None
    assert CrossEntropy().denominator(torch.randn(4, 3, 5), torch.zeros(4, 5, dtype=torch.int64)) == 20
    assert BCEWithLogits().denominator(outputs, targets) is None
    assert not CrossEntropy().state_dict() and "class_weights" not in CrossEntropy()._buffers


@pytest.mark.parametrize("shape", OUTPUTS.values(), ids=OUTPUTS)
@pytest.mark.parametrize("loss", [CrossEntropy(), CrossEntropy(0.1, WEIGHTS), Focal(alpha=WEIGHTS), Focal(0.5)])
def test_targets_that_are_probabilities_mean_the_same_as_classes(shape: tuple[int, ...], loss: Loss) -> None:
    outputs, targets = torch.randn(shape), torch.randint(3, (shape[0], *shape[2:]))
    certain = one_hot(targets, 3).movedim(-1, 1).float()
    torch.testing.assert_close(loss(outputs, certain), loss(outputs, targets))
    of_classes, of_probabilities = loss.denominator(outputs, targets), loss.denominator(outputs, certain)
    assert (of_classes is None) == (of_probabilities is None)
    if of_classes is not None:
        torch.testing.assert_close(of_probabilities, of_classes)
    accuracy = loss.metrics["accuracy"]
    assert accuracy.sums(outputs, certain).tolist() == accuracy.sums(outputs, targets).tolist()


def test_accuracy_counts_only_what_is_not_ignored() -> None:
    outputs = torch.tensor([[1.0, 2.0], [3.0, 0.0], [0.0, 1.0]])
    accuracy = CrossEntropy(ignore_index=0).metrics["accuracy"]
    assert accuracy.value(accuracy.sums(outputs, torch.tensor([1, 0, 0])).tolist(), 3) == 1.0
    per_pixel = CrossEntropy().metrics["accuracy"]
    pixels = torch.tensor([[1, 1], [0, 1], [0, 1]])
    assert per_pixel.value(per_pixel.sums(torch.stack([outputs, outputs], 2), pixels).tolist(), 3) == 4 / 6


def test_balanced_weights_are_those_of_scikit_learn() -> None:
    targets = torch.tensor([0, 0, 0, 2, 1, 1, -100])
    loss = CrossEntropy(class_weight="balanced", ignore_index=-100)
    assert loss.reads_targets and loss.num_outputs(targets, None) == 3
    loss.read_targets(targets, 3)
    expected = compute_class_weight("balanced", classes=np.arange(3), y=targets[:-1].numpy())
    assert loss.class_weights is not None
    assert loss.class_weights.tolist() == pytest.approx(expected.tolist())
    loss.read_targets(targets, 4)
    assert loss.class_weights.tolist() == pytest.approx([*expected.tolist(), 1.0])


def test_weights_of_labels_are_factors_of_positives() -> None:
    outputs, targets = torch.randn(6, 2), torch.tensor([[1, 0]] * 2 + [[0, 0]] * 4)
    loss = BCEWithLogits(class_weight=[3.0, 1.0])
    prepared = loss.prepare(targets, torch.float32)
    expected = binary_cross_entropy_with_logits(outputs, prepared, pos_weight=torch.tensor([3.0, 1.0]))
    torch.testing.assert_close(loss(outputs, prepared), expected)
    balanced = BCEWithLogits(class_weight="balanced")
    balanced.read_targets(targets, 2)
    assert balanced.class_weights is not None and balanced.class_weights.tolist() == [2.0, 1.0]


@pytest.mark.parametrize(
    ("loss", "targets", "key", "topic"),
    [
        (CrossEntropy(0, [1.0, 2.0]), torch.tensor([0, 1, 2]), "loss.class_weight", "conflict"),
        (Focal(alpha=[1.0, 2.0]), torch.tensor([0, 1, 2]), "loss.alpha", "conflict"),
        (BCEWithLogits([1.0, 2.0]), torch.tensor([0, 1]), "loss.class_weight", "conflict"),
        (CrossEntropy(ignore_index=0), torch.tensor([0, 0]), "loss.ignore_index", "data"),
        (CrossEntropy(), torch.tensor([-100, 0, 1]), "loss", "data"),
    ],
)
def test_weights_and_targets_that_do_not_fit_are_refused(loss: Loss, targets: Tensor, key: str, topic: str) -> None:
    with pytest.raises(ConfigError) as error:
        loss.num_outputs(targets, None)
    assert about(error) == [(key, topic)]


def test_weights_that_are_all_0_are_refused() -> None:
    with pytest.raises(ConfigError) as error:
        CrossEntropy(class_weight=[0, 0])
    assert about(error) == [("loss.class_weight", "range")]


def test_a_negative_target_may_be_one_to_ignore() -> None:
    with pytest.raises(ConfigError) as error:
        CrossEntropy().num_outputs(torch.tensor([-100, 0, 1, -100]), None)
    assert error.value.problems[0].suggestion.endswith("write loss.ignore_index=-100")
    assert CrossEntropy(ignore_index=-100).num_outputs(torch.tensor([-100, 0, 1, -100]), None) == 2
