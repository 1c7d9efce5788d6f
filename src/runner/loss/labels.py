"""The losses for targets that are labels: each is yes or no, or a probability."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from torch import Tensor

from runner.errors import ConfigError, Problem
from runner.loss.base import Loss, Metric, name_of
from runner.loss.class_weight import balanced_labels, check_count
from runner.loss.sums import correct_signs
from runner.util.ranges import Range


class BCEWithLogits(Loss):
    """Binary cross entropy: targets (N,), or (N, K) for K labels, are from 0 to 1; outputs are logits.

    Args:
        class_weight: a factor of the loss of each label's positives (torch's `pos_weight`): 3 counts each of them three
            times. `balanced` is the number of negatives divided by that of positives, in the training part. The loss
            stays a mean over samples and labels. It is the same in validation and test.
    """

    metrics: Mapping[str, Metric] = {"accuracy": Metric(correct_signs, higher_is_better=True)}
    takes = "either"

    def __init__(self, class_weight: Annotated[Literal["balanced"] | Sequence[float] | None, Range(0)] = None) -> None:
        super().__init__()
        self.set_weights(class_weight, "loss.class_weight")

    def num_outputs(self, targets: Tensor, classes: Sequence[str] | None) -> int:
        """Return the number of labels."""
        if float(targets.min()) < 0 or float(targets.max()) > 1:
            name = name_of(self)
            suggestion = f"write loss={'mse' if targets.is_floating_point() else 'cross_entropy'}"
            text = f"loss={name} needs targets from 0 to 1, found {targets.min():g} to {targets.max():g}"
            raise ConfigError(Problem("loss", text, suggestion, topic="conflict"))
        if classes and targets.ndim == 1 and len(classes) != 2:
            text = f"loss={name_of(self)} needs two classes, the data have {len(classes)}"
            raise ConfigError(Problem("loss", text, "write loss=cross_entropy", topic="conflict"))
        count = 1 if targets.ndim == 1 else targets.flatten(1).shape[1]
        check_count(self.class_weights, count, "loss.class_weight", "labels")
        return count

    def read_targets(self, targets: Tensor, num_outputs: int) -> None:
        """Balance the class weights."""
        self.class_weights = balanced_labels(self.prepare(targets, torch.float64))

    def prepare(self, targets: Tensor, dtype: torch.dtype) -> Tensor:
        """Convert targets to values of shape (N, K)."""
        return targets.to(dtype).reshape(len(targets), -1)

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the mean binary cross entropy over samples and outputs, in nats."""
        positives = None if self.class_weights is None else self.class_weights.to(outputs.dtype)
        return F.binary_cross_entropy_with_logits(outputs, targets, pos_weight=positives)

    def probabilities(self, outputs: Tensor) -> Tensor | None:
        """Return the probabilities of no and yes, (N, 2), of a single label; None for several labels."""
        if outputs.shape[1] != 1:
            return None
        yes = outputs.sigmoid()
        return torch.cat([1 - yes, yes], dim=1)
