"""What a model says of the test samples: seen batch by batch in the data set's order, read once afterwards."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from runner.data.source import Part
from runner.data.target_scale import TargetScale
from runner.loss import BCEWithLogits, Loss

MOST_VALUES = 1_000_000  # numbers of a regression that are kept: a plot has no use for more


class Classes(NamedTuple):
    """Of each sample (N,), on the CPU: the true class, the predicted one, and the probability given to that."""

    actual: Tensor
    predicted: Tensor
    probability: Tensor


class Values(NamedTuple):
    """Of the first samples (N, K), on the CPU, in the units of the data: the true values and the predicted ones."""

    actual: Tensor
    predicted: Tensor


class Predictions:
    """Collects what an evaluation sees; sample i of the data set is row i of what it gives.

    A batch costs a few small operations on the device, which is not waited for: it is read when asked for
    `classes()` or `values()`. A model that tells classes apart has the one, a model that gives values the other.

    Args:
        loss: says what outputs mean.
        scale: of the targets of a regression, if they have one.
    """

    def __init__(self, loss: Loss, scale: TargetScale | None = None) -> None:
        self._loss, self._scale = loss, scale
        self._seen: list[tuple[Tensor, ...]] = []
        self._values_kept = 0
        self.num_classes: int | None = None
        self.samples = 0

    def see(self, outputs: Tensor, targets: Tensor) -> None:
        """Take a batch: outputs (N, K), targets (N, ...) as the loss has prepared them."""
        self.samples += len(outputs)
        probabilities = self._loss.probabilities(outputs)
        if probabilities is not None:
            self.num_classes = probabilities.shape[1]
            probability, predicted = probabilities.max(dim=1)
            self._seen.append((_class_of(targets).int(), predicted.int(), probability.float().nan_to_num(0.0)))
        # Several yes-or-no questions at once are neither classes of one question nor values.
        elif isinstance(self._loss, BCEWithLogits) or outputs.shape != targets.shape:
            return
        elif self._values_kept < MOST_VALUES:
            self._values_kept += outputs.numel()
            # Copies: a compiled model may write the next batch's outputs to the same place.
            self._seen.append((targets.float().clone(), outputs.float().clone()))

    def classes(self) -> Classes | None:
        """Classes and probabilities; None where outputs are values, or nothing was seen."""
        if self.num_classes is None:
            return None
        actual, predicted, probability = self._read()
        return Classes(actual.long(), predicted.long(), probability)

    def values(self) -> Values | None:
        """Values, in the units of the data; None where outputs are classes, or nothing was seen."""
        if self.num_classes is not None or not self._seen:
            return None
        actual, predicted = self._read()
        if self._scale is not None:
            actual, predicted = self._scale.in_units(actual), self._scale.in_units(predicted)
        return Values(actual, predicted)

    def _read(self) -> list[Tensor]:
        return [torch.cat(parts).cpu() for parts in zip(*self._seen, strict=True)]


def _class_of(targets: Tensor) -> Tensor:
    """(N,) classes of targets that are classes (N,), yes or no (N, 1), or shares of each class (N, K)."""
    if targets.ndim == 2 and targets.shape[1] > 1:
        return targets.argmax(dim=1)
    return targets.reshape(-1) > 0.5 if targets.is_floating_point() else targets.reshape(-1)


def confusion(found: Classes, num_classes: int) -> Tensor:
    """How often each class was taken for each: counts (classes, classes), a row a true class."""
    # A target that is no class of the model's cannot be counted; a loss of one's own may allow it.
    known = (found.actual >= 0) & (found.actual < num_classes)
    cells = found.actual[known] * num_classes + found.predicted[known]
    return torch.bincount(cells, minlength=num_classes**2).reshape(num_classes, num_classes)


def mistakes(found: Classes) -> Tensor:
    """Indices of the samples whose class was not recognised, the most confident mistake first."""
    wrong = (found.actual != found.predicted).nonzero().squeeze(1)
    return wrong[found.probability[wrong].sort(descending=True, stable=True).indices]


def raw_images(part: Part, input_shape: Sequence[int]) -> Callable[[list[int]], Tensor] | None:
    """What gives the images (n, C, H, W) at n indices of a part, raw; None if its samples are no images."""
    if len(input_shape) != 3:
        return None
    if isinstance(part, tuple):
        inputs = part[0]
        return lambda indices: inputs[indices]
    # A data set of one's own need not give tensors.
    return lambda indices: torch.stack([torch.as_tensor(part[index][0]) for index in indices])
