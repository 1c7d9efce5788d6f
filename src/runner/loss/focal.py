"""The focal losses: what is predicted well already counts less.

Lin et al. 2017, "Focal Loss for Dense Object Detection".
"""

from collections.abc import Sequence
from typing import Annotated, Literal

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from torch import Tensor

from runner.loss.classes import CrossEntropy, mean, weight_of
from runner.loss.labels import BCEWithLogits
from runner.util.ranges import Range


class Focal(CrossEntropy):
    """Focal loss for classes: cross entropy times (1 - p)^gamma, with p the probability of the target's class.

    Args:
        gamma: the larger, the less counts what is predicted well; 0 is cross entropy.
        alpha: a factor of each class, or `balanced`, as for `CrossEntropy.class_weight`. As in the paper, the loss is
            divided by the number of targets, not by the sum of these factors.
        ignore_index: see `CrossEntropy`.
    """

    weight_key = "loss.alpha"

    def __init__(
        self,
        gamma: Annotated[float, Range(0)] = 2.0,
        alpha: Annotated[Literal["balanced"] | Sequence[float] | None, Range(0)] = None,
        ignore_index: int | None = None,
    ) -> None:
        super().__init__(class_weight=alpha, ignore_index=ignore_index)
        self.gamma = gamma

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the mean focal loss; 0 if all targets are ignored."""
        logs = F.log_softmax(outputs, dim=1)
        losses = -logs * _miss(-torch.expm1(logs)) ** self.gamma
        if self.class_weights is not None:
            factors = self.class_weights.to(outputs.dtype)
            losses = losses * factors.view(-1, *[1] * (outputs.ndim - 2))
        if targets.is_floating_point():
            total = (losses * targets).sum()
        elif self.ignore_index is None:
            total = losses.gather(1, targets.unsqueeze(1)).sum()
        else:
            counted = targets != self.ignore_index
            total = (losses.gather(1, targets.where(counted, 0).unsqueeze(1)).squeeze(1) * counted).sum()
        return mean(total, self.denominator(outputs, targets), len(targets))

    def denominator(self, outputs: Tensor, targets: Tensor) -> Tensor | None:
        """Return the number of targets that count; None if it is the samples."""
        return weight_of(outputs, targets, None, self.ignore_index)


class FocalWithLogits(BCEWithLogits):
    """Focal loss for labels: binary cross entropy times (1 - p)^gamma, with p the probability of the target.

    With gamma 2 and alpha 0.25 it is `torchvision.ops.sigmoid_focal_loss(reduction="mean")` with its defaults.

    Args:
        gamma: the larger, the less counts what is predicted well; 0 is binary cross entropy.
        alpha: the factor of positives; that of negatives is 1 - alpha. null: both are 1.
    """

    def __init__(
        self,
        gamma: Annotated[float, Range(0)] = 2.0,
        alpha: Annotated[float | None, Range(0, 1)] = 0.25,
    ) -> None:
        super().__init__()
        self.gamma, self.alpha = gamma, alpha

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the mean focal loss over samples and outputs."""
        yes = outputs.sigmoid()
        miss = _miss(yes + targets - 2 * yes * targets)  # 1 - p
        losses = F.binary_cross_entropy_with_logits(outputs, targets, reduction="none") * miss**self.gamma
        if self.alpha is not None:
            losses = losses * (self.alpha * targets + (1 - self.alpha) * (1 - targets))
        return losses.mean()


def _miss(probability: Tensor) -> Tensor:
    """Keep the probability of a mistake above 0, where a power below 1 has no finite derivative."""
    return probability.clamp(min=torch.finfo(probability.dtype).tiny)
