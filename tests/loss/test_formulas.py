"""The formulas of the losses, against those of torch and torchvision."""

import pytest
import torch
from torch.nn import functional
from torchvision.ops import sigmoid_focal_loss

from runner.loss import L1, BCEWithLogits, CrossEntropy, Focal, FocalWithLogits, Huber, Loss


def made(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=torch.float64) * 3


@pytest.mark.parametrize(("gamma", "alpha"), [(2.0, 0.25), (0.5, None), (3.0, 0.9)])
def test_focal_loss_of_labels_is_that_of_torchvision(gamma: float, alpha: float | None) -> None:
    outputs, targets = made(9, 4), (made(9, 4) > 0).double()
    expected = sigmoid_focal_loss(outputs, targets, -1 if alpha is None else alpha, gamma, reduction="mean")
    torch.testing.assert_close(FocalWithLogits(gamma, alpha)(outputs, targets), expected)


def test_focal_loss_of_classes_is_the_formula_of_the_paper() -> None:
    outputs, targets, alpha = made(9, 3), torch.arange(9) % 3, torch.tensor([0.2, 1.0, 3.0], dtype=torch.float64)
    right = outputs.softmax(1)[range(9), targets]
    expected = (-alpha[targets] * (1 - right) ** 1.5 * right.log()).mean()
    torch.testing.assert_close(Focal(1.5, alpha.tolist())(outputs, targets), expected)


@pytest.mark.parametrize(("focal", "plain"), [(Focal(0), CrossEntropy()), (FocalWithLogits(0, None), BCEWithLogits())])
def test_focal_loss_with_gamma_0_is_cross_entropy(focal: Loss, plain: Loss) -> None:
    outputs = made(9, 3)
    targets = torch.arange(9) % 3 if isinstance(focal, Focal) else (made(9, 3) > 0).double()
    torch.testing.assert_close(focal(outputs, targets), plain(outputs, targets))


@pytest.mark.parametrize("loss", [Focal(0.5), Focal(2), FocalWithLogits(0.5), FocalWithLogits(2)])
@pytest.mark.parametrize("logit", [0.0, 30.0, 2000.0])
def test_the_gradient_of_certain_outputs_is_finite(loss: Loss, logit: float) -> None:
    outputs = torch.tensor([[logit, -logit]], requires_grad=True)
    for targets in ([1, 0], [0, 1]):
        outputs.grad = None
        classes = torch.tensor([targets[1]]) if isinstance(loss, Focal) else torch.tensor([targets]).float()
        loss(outputs, classes).backward()
        assert outputs.grad is not None and outputs.grad.isfinite().all()


def test_losses_of_values_are_those_of_torch() -> None:
    outputs, targets = made(9, 2), made(9, 2) * 2
    torch.testing.assert_close(L1()(outputs, targets), functional.l1_loss(outputs, targets))
    for delta in (0.5, 2.0):
        torch.testing.assert_close(Huber(delta)(outputs, targets), functional.huber_loss(outputs, targets, delta=delta))
