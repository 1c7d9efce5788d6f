"""What outputs mean to a reader: probabilities of classes or labels, or values."""

from collections.abc import Sequence

import torch
from torch import Tensor

from runner.loss.base import Loss
from runner.loss.labels import BCEWithLogits

SAMPLE = "sample"
"""The first column of predictions, whose name no other may have."""


def answers(loss: Loss, outputs: Tensor) -> Tensor:
    """Convert outputs (N, K), in the units of the data, to predictions.

    These are the probabilities of the classes; for several labels per sample, the probability of each; or the values.
    """
    probabilities = loss.probabilities(outputs)
    if probabilities is not None:
        return probabilities
    return outputs.sigmoid() if isinstance(loss, BCEWithLogits) else outputs


def outputs_of(loss: Loss, answered: Tensor, num_outputs: int) -> Tensor:
    """Convert predictions back to outputs (N, `num_outputs`), of which `answers` makes them again.

    Of probabilities these are logits: their logarithms, and of labels those of their odds.
    """
    if isinstance(loss, BCEWithLogits):
        yes = answered[:, 1:] if num_outputs == 1 else answered
        return torch.logit(yes, eps=torch.finfo(yes.dtype).eps)
    if loss.probabilities(answered) is None:
        return answered
    return answered.clamp(min=torch.finfo(answered.dtype).tiny).log()


def answer_names(loss: Loss, num_outputs: int, classes: Sequence[str] | None, targets: Sequence[str] = ()) -> list[str]:
    """Return the column names of `answers`: `p_cat` and `p_dog`, or those of the target columns.

    Without a table values are called `value`, or `value_0`, `value_1`, ...; labels `p_0`, `p_1`, ...
    """
    device = next((tensor.device for tensor in loss.state_dict().values()), None)
    probabilities = loss.probabilities(torch.zeros(1, num_outputs, device=device))
    if probabilities is not None:
        return [f"p_{name}" for name in classes or range(probabilities.shape[1])]
    labels = isinstance(loss, BCEWithLogits)
    if len(targets) == num_outputs and SAMPLE not in targets and not (labels and num_outputs == 1):
        return [f"p_{target}" if labels else target for target in targets]
    name = "p" if labels else "value"
    return [name] if num_outputs == 1 else [f"{name}_{number}" for number in range(num_outputs)]
