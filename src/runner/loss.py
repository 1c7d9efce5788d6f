"""What is minimised, and with it the task: the loss decides what targets mean and how many outputs there are."""

from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from torch import Tensor, nn

from .errors import ConfigError

Metric = Callable[[Tensor, Tensor], Tensor]
"""(outputs, prepared targets) of a batch -> the sum over its samples, as a scalar on the device."""


class Loss(nn.Module):
    """A loss of one's own derives from this and overrides all four.

    Attributes:
        metrics: what is measured beside the loss, by name; means over samples are reported.
    """

    metrics: Mapping[str, Metric] = {}

    def num_outputs(self, targets: Tensor, classes: Sequence[str] | None) -> int:
        """How many outputs a model needs for these targets.

        Raises:
            ConfigError: the targets are not of this loss's kind.
        """
        raise NotImplementedError

    def prepare(self, targets: Tensor, dtype: torch.dtype) -> Tensor:
        """Targets as `forward` takes them; `dtype` is that of the weights."""
        raise NotImplementedError

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The mean over the samples of a batch, a scalar."""
        raise NotImplementedError


def correct(outputs: Tensor, targets: Tensor) -> Tensor:
    """How many of (N, K) outputs are largest at the target class (N,)."""
    return (outputs.argmax(dim=1) == targets).sum()


def absolute_error(outputs: Tensor, targets: Tensor) -> Tensor:
    """Sum over samples of the mean absolute error over the K outputs; both (N, K)."""
    return (outputs - targets).abs().mean(dim=1).sum()


class CrossEntropy(Loss):
    """Classification: targets (N,) are class indices, outputs (N, K) logits.

    Validation and test compute the loss without smoothing, so that runs with and without compare.
    """

    metrics: Mapping[str, Metric] = {"accuracy": correct}

    def __init__(self, label_smoothing: float = 0.0) -> None:
        super().__init__()
        self.label_smoothing = label_smoothing

    def num_outputs(self, targets: Tensor, classes: Sequence[str] | None) -> int:
        """One a class."""
        if targets.is_floating_point() or targets.ndim != 1:
            kind = "values, not classes" if targets.is_floating_point() else f"of shape {tuple(targets.shape)}"
            raise ConfigError(
                f"loss=cross_entropy needs one integer class a sample, the targets are {kind}: write loss=mse"
            )
        if int(targets.min()) < 0:
            raise ConfigError(f"loss=cross_entropy: classes count from 0, but there is a target {int(targets.min())}")
        return len(classes) if classes else int(targets.max()) + 1

    def prepare(self, targets: Tensor, dtype: torch.dtype) -> Tensor:
        """Class indices as int64."""
        return targets.long()

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Mean cross entropy, in nats."""
        return F.cross_entropy(outputs, targets, label_smoothing=self.label_smoothing if self.training else 0.0)


class MSE(Loss):
    """Regression: targets (N,) or (N, K) are values; integers are taken as numbers."""

    metrics: Mapping[str, Metric] = {"mae": absolute_error}

    def num_outputs(self, targets: Tensor, classes: Sequence[str] | None) -> int:
        """One a value."""
        if classes:
            raise ConfigError("loss=mse needs values, but the targets are named classes: write loss=cross_entropy")
        return 1 if targets.ndim == 1 else targets.flatten(1).shape[1]

    def prepare(self, targets: Tensor, dtype: torch.dtype) -> Tensor:
        """Values of shape (N, K)."""
        return targets.to(dtype).reshape(len(targets), -1)

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Mean squared error over samples and outputs."""
        return F.mse_loss(outputs, targets)
