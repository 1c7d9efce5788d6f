"""A model's predictions for the test samples, collected per batch in the order of the data set."""

from collections.abc import Callable
from itertools import zip_longest
from typing import NamedTuple

import torch
from torch import Tensor

from runner.data.part import Part, seeded
from runner.data.target_scale import TargetScale
from runner.loss import BCEWithLogits
from runner.strategy import Strategy
from runner.task import Step, Task
from runner.task.supervised import Supervised
from runner.util.trees import Shapes, is_shape

MOST_VALUES = 1_000_000  # of a regression: enough for a plot


class Classes(NamedTuple):
    """For each sample (N,), on the CPU: true class, predicted class, and the predicted class's probability.

    The true class is -1 where `loss.ignore_index` says that it does not count.
    """

    actual: Tensor
    predicted: Tensor
    probability: Tensor


class Values(NamedTuple):
    """For the first samples (N, K), on the CPU, in the units of the data: true and predicted values."""

    actual: Tensor
    predicted: Tensor


class Predictions:
    """Collects the predictions of an evaluation; row i belongs to sample i of the data set.

    A batch costs a few small operations on the device, without waiting for it: `classes()` and `values()` read it. A
    classifier has classes, a regression has values.

    Args:
        task: `supervised`, whose loss defines the meaning of outputs; of another one, only the samples are counted.
        scale: the scale of a regression's targets, if any.
    """

    def __init__(self, task: Task, scale: TargetScale | None = None) -> None:
        self._loss, self._scale = task.loss if isinstance(task, Supervised) else None, scale
        self._batches: list[tuple[Tensor, ...]] = []
        self._values = 0
        self.num_classes: int | None = None
        self.samples = 0

    def merge(self, strategy: Strategy) -> None:
        """Put the predictions of all ranks together, in the order of the samples."""
        if strategy.ranks == 1:
            return
        own = [tuple(part.cpu() for part in batch) for batch in self._batches]
        shares = strategy.gather((own, self.samples, self.num_classes))
        in_order = zip_longest(*(batches for batches, *_ in shares))  # the last may have no share for some
        self._batches = [share for batch in in_order for share in batch if share]
        self.samples = sum(samples for _, samples, _ in shares)

    def add(self, step: Step) -> None:
        """Add the step of a batch: its outputs (N, K), and targets (N, ...) as the loss prepared them."""
        self.samples += step.samples
        outputs, targets = step.outputs, step.targets
        if self._loss is None or not isinstance(outputs, Tensor) or not isinstance(targets, Tensor):
            return
        probabilities = self._loss.probabilities(outputs)
        if probabilities is not None:
            self.num_classes = probabilities.shape[1]
            probability, predicted = probabilities.max(dim=1)
            actual = class_of(targets).int()
            if (ignored := self._loss.ignore_index) is not None:
                actual = actual.where(actual != ignored, -1)
            self._batches.append((actual, predicted.int(), probability.float().nan_to_num(0.0)))
        # Several labels per sample are neither classes nor values.
        elif isinstance(self._loss, BCEWithLogits) or outputs.shape != targets.shape:
            return
        elif self._values < MOST_VALUES:
            self._values += outputs.numel()
            # Copies: a compiled model may overwrite its outputs with those of the next batch.
            self._batches.append((targets.float().clone(), outputs.float().clone()))

    def classes(self) -> Classes | None:
        """Return classes and probabilities; None if outputs are values, or no batch was added."""
        if self.num_classes is None:
            return None
        actual, predicted, probability = self._read()
        return Classes(actual.long(), predicted.long(), probability)

    def values(self) -> Values | None:
        """Return values in the units of the data; None if outputs are classes, or no batch was added."""
        if self.num_classes is not None or not self._batches:
            return None
        actual, predicted = self._read()
        if self._scale is not None:
            actual, predicted = self._scale.in_units(actual), self._scale.in_units(predicted)
        return Values(actual, predicted)

    def _read(self) -> list[Tensor]:
        return [torch.cat(parts).cpu() for parts in zip(*self._batches, strict=True)]


def class_of(targets: Tensor) -> Tensor:
    """Return classes (N,) of targets that are classes (N,), yes or no (N, 1), or class probabilities (N, K)."""
    if targets.ndim == 2 and targets.shape[1] > 1:
        return targets.argmax(dim=1)
    return targets.reshape(-1) > 0.5 if targets.is_floating_point() else targets.reshape(-1)


def confusion(classes: Classes, num_classes: int) -> Tensor:
    """Return the confusion matrix: counts (classes, classes), a row per true class."""
    # A custom loss may allow targets that are not classes of the model.
    known = (classes.actual >= 0) & (classes.actual < num_classes)
    cells = classes.actual[known] * num_classes + classes.predicted[known]
    return torch.bincount(cells, minlength=num_classes**2).reshape(num_classes, num_classes)


def mistakes(classes: Classes) -> Tensor:
    """Return the indices of misclassified samples, the most confident mistake first."""
    wrong = ((classes.actual != classes.predicted) & (classes.actual >= 0)).nonzero().squeeze(1)
    return wrong[classes.probability[wrong].sort(descending=True, stable=True).indices]


def raw_images(part: Part, input_shape: Shapes) -> Callable[[list[int]], Tensor] | None:
    """Return a function from n indices to raw images (n, C, H, W) of a part; None if samples are not images."""
    if not is_shape(input_shape) or len(input_shape) != 3 or part.streams:
        return None
    return lambda indices: part.batch(seeded(indices, "images"))[0]
