"""The losses for targets that are classes."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Annotated, Literal

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from torch import Tensor

from runner.errors import ConfigError, Problem
from runner.loss.base import Loss, Metric, name_of
from runner.loss.class_weight import balanced_classes, check_count
from runner.loss.sums import correct, share_of_counted
from runner.util.ranges import Range

FEW = 20
"""The largest number of distinct whole-number floats that may be classes."""


def _not_classes(targets: Tensor) -> tuple[str, str]:
    """Describe targets that are not one integer per sample, and suggest what to do instead."""
    whole = not targets.is_floating_point() or bool((targets == targets.round()).all())
    if targets.ndim == 2 and targets.shape[1] == 1 and whole:
        return "the targets have shape (N, 1)", "pass integers of shape (N,), such as targets[:, 0]"
    if targets.ndim == 2 and bool(((targets == 0) | (targets == 1)).all()):
        one_hot = bool((targets.sum(1) == 1).all())
        suggestion = "pass class indices: targets.argmax(1)" if one_hot else "write loss=bce_with_logits"
        return f"the targets are {targets.shape[1]} values of 0 or 1 per sample", suggestion
    if targets.ndim != 1:
        return f"the targets have shape {tuple(targets.shape)}", "write loss=mse"
    if whole and float(targets.min()) == 0 and float(targets.max()) == 1:
        return "the targets are 0.0 and 1.0", "write loss=bce_with_logits, or pass integers, 0 and 1"
    if whole and len(targets.unique()) <= FEW:
        return "the targets are floats, all whole numbers", "write loss=mse, or pass integers if they are classes"
    return "the targets are values, not classes", "write loss=mse"


class CrossEntropy(Loss):
    """Cross entropy for classification: targets (N, ...) are class indices, outputs (N, K, ...) logits.

    Targets may be probabilities of the classes too, of the same shape as the outputs: those of mixed samples.

    Validation and test compute the loss without smoothing: runs with and without it remain comparable. Class weights
    apply there as well, as they say what is to be minimised.

    Args:
        label_smoothing: share of the target that is spread over all classes, in training.
        class_weight: a weight of each class, or `balanced`: those of `class_weight.balanced_classes`. The loss is then
            the mean weighted by the classes of the targets: the sum of weight times loss, divided by the sum of
            weights. The divisor is the same with smoothing. For targets that are probabilities, the weight of a sample
            is the mean of the weights with these probabilities (`torch.nn.functional.cross_entropy` divides by the
            number of samples there, whatever their weights).
        ignore_index: the target that is not counted, neither in the loss nor in the accuracy; null: all are.
    """

    metrics: Mapping[str, Metric] = {"accuracy": Metric(correct, share_of_counted, higher_is_better=True)}
    takes = "classes"
    weight_key = "loss.class_weight"

    def __init__(
        self,
        label_smoothing: Annotated[float, Range(0, 1)] = 0.0,
        class_weight: Annotated[Literal["balanced"] | Sequence[float] | None, Range(0)] = None,
        ignore_index: int | None = None,
    ) -> None:
        super().__init__()
        self.label_smoothing = label_smoothing
        self.ignore_index = ignore_index
        if ignore_index is not None:
            counted = partial(correct, ignore_index=ignore_index)
            self.metrics = {"accuracy": Metric(counted, share_of_counted, higher_is_better=True)}
        self.set_weights(class_weight, self.weight_key)

    def num_outputs(self, targets: Tensor, classes: Sequence[str] | None) -> int:
        """Return the number of classes."""
        name = f"loss={name_of(self)}"
        if targets.is_floating_point() or targets.ndim != 1:
            description, suggestion = _not_classes(targets)
            text = f"{name} needs one integer class per sample, but {description}"
            raise ConfigError(Problem("loss", text, suggestion, topic="conflict"))
        return self.count_classes(targets, classes)

    def count_classes(self, targets: Tensor, classes: Sequence[str] | None) -> int:
        """Return the number of classes of integer targets of any shape.

        Raises:
            ConfigError: there is a target that is no class, or there are too few classes.
        """
        name = f"loss={name_of(self)}"
        counted = self.counted(targets)
        if not len(counted):
            text = f"loss.ignore_index={self.ignore_index}: all targets are ignored"
            raise ConfigError(Problem("loss.ignore_index", text, "write loss.ignore_index=null", topic="data"))
        if (smallest := int(counted.min())) < 0:
            text = f"{name}: class indices start at 0, but the smallest target is {smallest}"
            one = bool((counted[counted < 0] == smallest).all())
            suggestion = f"if it marks targets to ignore, write loss.ignore_index={smallest}" if one else ""
            raise ConfigError(Problem("loss", text, suggestion, topic="data"))
        largest = int(counted.max())
        count = len(classes) if classes else largest + 1
        if largest >= count:
            text = f"{name}: the data name {count} classes, 0 to {count - 1}, but there is a target {largest}"
            raise ConfigError(Problem("loss", text, "name all classes, or none", topic="data"))
        if count < 2:
            text = f"{name} needs at least two classes, found {count}"
            raise ConfigError(Problem("loss", text, "add samples of another class", topic="data"))
        check_count(self.class_weights, count, self.weight_key, "classes")
        return count

    def read_targets(self, targets: Tensor, num_outputs: int) -> None:
        """Balance the class weights."""
        self.class_weights = balanced_classes(self.counted(targets), num_outputs)

    def counted(self, targets: Tensor) -> Tensor:
        """Return the targets that are not ignored, flattened."""
        targets = targets.flatten()
        return targets if self.ignore_index is None else targets[targets != self.ignore_index]

    def prepare(self, targets: Tensor, dtype: torch.dtype) -> Tensor:
        """Convert class indices to int64."""
        return targets.long()

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the mean cross entropy, in nats; 0 if all targets are ignored."""
        smoothing = self.label_smoothing if self.training else 0.0
        if self.class_weights is None and self.ignore_index is None:
            return F.cross_entropy(outputs, targets, label_smoothing=smoothing)
        weights = None if self.class_weights is None else self.class_weights.to(outputs.dtype)
        ignored = -100 if self.ignore_index is None or targets.is_floating_point() else self.ignore_index
        total = F.cross_entropy(outputs, targets, weights, None, ignored, reduction="sum", label_smoothing=smoothing)
        return mean(total, self.denominator(outputs, targets), len(targets))

    def denominator(self, outputs: Tensor, targets: Tensor) -> Tensor | None:
        """Return the sum of the class weights, or the number of targets that count; None if it is the samples."""
        return weight_of(outputs, targets, self.class_weights, self.ignore_index)

    def probabilities(self, outputs: Tensor) -> Tensor:
        """Return the softmax."""
        return outputs.softmax(dim=1)


def weight_of(outputs: Tensor, targets: Tensor, weights: Tensor | None, ignore_index: int | None) -> Tensor | None:
    """Return the sum of the weights of all targets; None if each sample has a single target, of weight 1.

    Args:
        outputs: (N, K, ...).
        targets: classes (N, ...), or probabilities (N, K, ...).
        weights: of the classes, (K,); None: they are 1.
        ignore_index: a class of weight 0.
    """
    if weights is not None:
        weights = weights.to(outputs.dtype)
    if targets.is_floating_point():
        if weights is None:
            return None if targets.ndim == 2 else outputs.new_full((), targets.numel() // targets.shape[1])
        return (targets.movedim(1, -1) @ weights).sum()
    if weights is None and ignore_index is None:
        return None if targets.ndim == 1 else outputs.new_full((), targets.numel())
    if ignore_index is None:
        return weights[targets].sum() if weights is not None else None
    counted = targets != ignore_index
    if weights is None:
        return torch.count_nonzero(counted).to(outputs.dtype)
    return (weights[targets.where(counted, 0)] * counted).sum()


def mean(total: Tensor, weight: Tensor | None, samples: int) -> Tensor:
    """Divide a sum over targets by their weight, or by the number of samples; 0 where the weight is 0."""
    return total / samples if weight is None else total / weight.where(weight > 0, 1.0)
