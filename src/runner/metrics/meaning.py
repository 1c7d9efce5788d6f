"""What the outputs and targets of a task mean to a metric, derived once: from its loss, or from those of a step."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from runner.loss import MSE, BCEWithLogits, CrossEntropy, Loss
from runner.metrics.entries import Kind

if TYPE_CHECKING:
    from collections.abc import Sequence

NOT_COUNTED = -100
"""The class that does not count where no loss of ours says so, as in `torch.nn.functional.cross_entropy`."""

SUM_TO_ONE = 1e-4
"""How far a sum of probabilities may be from 1."""


@dataclass(frozen=True)
class Meaning:
    """The meaning of outputs and targets.

    Attributes:
        kind: of the targets; `binary` for two classes, and for one label; None if there is no loss that tells.
        count: the number of classes, labels or values.
        names: of these, as they are shown.
        loss: turns outputs into probabilities; None with `kind`.
        of_step: derived from what a step returned, as the task has no loss that tells.
    """

    kind: Kind | None = None
    count: int = 0
    names: "Sequence[str]" = ()
    loss: Loss | None = None
    of_step: bool = False

    @property
    def noun(self) -> str:
        """What a value by class is of: `class`, `label` or `output`."""
        return {"multilabel": "label", "regression": "output"}.get(self.kind or "", "class")

    def convert(self, outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Convert outputs and targets of a batch to what metrics get.

        Args:
            outputs: (N, K, ...), those of a regression in the units of the data.
            targets: as the loss takes them.

        Returns:
            For classes: probabilities (M, K), float64, and classes (M,), without those that are ignored; M counts
            samples, or all their pixels or tokens. For labels: probabilities (N, K), and 0 or 1. For values: both
            (N, K), or (N,) for a single value, float64. Else both unchanged. They share no memory with the arguments.
        """
        if self.kind is None or self.loss is None:
            return outputs.detach().clone(), targets.detach().clone()
        if outputs.device.type == "mps":  # it has no float64
            outputs, targets = outputs.cpu(), targets.cpu()
        outputs = outputs.detach().double()
        if self.kind == "regression":
            both = outputs.reshape(len(outputs), -1), targets.double().reshape(len(targets), -1)
            outputs, targets = (part.squeeze(1) if self.count == 1 else part for part in both)
            return outputs.clone(), targets.clone()
        if isinstance(self.loss, BCEWithLogits):
            yes = (targets > 0.5).long()
            outputs = outputs.unsqueeze(1) if outputs.ndim == 1 else outputs
            if self.count == 2 and outputs.shape[1] == 1:
                return torch.cat([1 - outputs.sigmoid(), outputs.sigmoid()], 1), yes.reshape(-1)
            return outputs.sigmoid(), yes
        probabilities = self.loss.probabilities(outputs)
        assert probabilities is not None
        if targets.is_floating_point() and targets.ndim == outputs.ndim:  # of mixed samples
            targets = targets.argmax(1)
        probabilities = probabilities.movedim(1, -1).reshape(-1, probabilities.shape[1])
        classes = targets.long().flatten()
        if self.loss.ignore_index is not None:
            counted = classes != self.loss.ignore_index
            return probabilities[counted], classes[counted]
        return probabilities, classes.clone()


def meaning_of(loss: Loss | None, num_outputs: int | None, classes: "Sequence[str] | None") -> Meaning:
    """Derive the meaning of outputs and targets.

    Args:
        loss: of the task, if it has one.
        num_outputs: of the model, if data and task tell.
        classes: the names of the classes, if they have any.
    """
    if loss is None or num_outputs is None:
        return Meaning()
    if loss.regression:
        return Meaning("regression", num_outputs, _names(num_outputs, None), loss)
    if isinstance(loss, BCEWithLogits):
        if num_outputs == 1:
            return Meaning("binary", 2, _names(2, classes), loss)
        return Meaning("multilabel", num_outputs, _names(num_outputs, classes), loss)
    if type(loss).probabilities is not Loss.probabilities:
        return Meaning("binary" if num_outputs == 2 else "multiclass", num_outputs, _names(num_outputs, classes), loss)
    return Meaning()


class _Probabilities(Loss):
    """Stands for a loss whose outputs are probabilities already."""

    ignore_index = NOT_COUNTED

    def probabilities(self, outputs: Tensor) -> Tensor:
        """Return the outputs."""
        return outputs


def meaning_of_step(
    outputs: Tensor, targets: Tensor, classes: "Sequence[str] | None", asked: Kind | None = None
) -> Meaning:
    """Derive the meaning of what a step returned from its shapes and dtypes.

    Args:
        outputs: of a step. Floats (N, K, ...) beside whole numbers (N, ...) are logits of classes, or probabilities if
            they sum to 1; beside whole numbers of the same shape (N, K), logits of labels; beside floats, values.
        targets: of the same samples.
        classes: the names of the classes, if they have any.
        asked: the kind that a metric was typed with: with `binary` floats (N,) or (N, 1) are logits of class 1, with
            `multilabel` targets may be floats.

    Returns:
        The meaning; that of an unknown kind if the shapes do not tell.
    """
    unknown, whole = Meaning(of_step=True), not targets.is_floating_point()
    if not outputs.is_floating_point() or outputs.ndim == 0 or targets.ndim == 0 or len(outputs) != len(targets):
        return unknown
    count = outputs.shape[1] if outputs.ndim > 1 else 1
    if whole and count > 1 and (outputs.shape[0], *outputs.shape[2:]) == targets.shape:
        kind: Kind = "binary" if count == 2 else "multiclass"
        return Meaning(kind, count, _names(count, classes), _loss_of_classes(outputs), of_step=True)
    flat = targets.reshape(len(targets), -1).shape[1] == 1 and outputs.ndim <= 2
    if asked == "binary" and count == 1 and flat:
        return Meaning("binary", 2, _names(2, classes), BCEWithLogits(), of_step=True)
    if outputs.shape != targets.shape:
        return unknown
    if outputs.ndim == 2 and count > 1 and (whole or asked == "multilabel"):
        return Meaning("multilabel", count, _names(count, classes), BCEWithLogits(), of_step=True)
    if whole:
        return unknown
    values = outputs[0].numel()
    return Meaning("regression", values, _names(values, None), MSE(), of_step=True)


def _loss_of_classes(outputs: Tensor) -> Loss:
    sums = outputs.double().sum(1)
    are_probabilities = bool((outputs >= 0).all()) and bool(((sums - 1).abs() < SUM_TO_ONE).all())
    return _Probabilities() if are_probabilities else CrossEntropy(ignore_index=NOT_COUNTED)


def _names(count: int, classes: "Sequence[str] | None") -> list[str]:
    return list(classes) if classes and len(classes) == count else [str(number) for number in range(count)]
