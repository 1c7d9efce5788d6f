"""What outputs mean to a reader: probabilities of classes or labels, or values."""

from collections.abc import Sequence

import torch
from torch import Tensor

from runner.loss.base import Loss
from runner.loss.labels import BCEWithLogits


def answers(loss: Loss, outputs: Tensor) -> Tensor:
    """Convert outputs (N, K), in the units of the data, to predictions.

    These are the probabilities of the classes; for several labels per sample, the probability of each; or the values.
    """
    probabilities = loss.probabilities(outputs)
    if probabilities is not None:
        return probabilities
    return outputs.sigmoid() if isinstance(loss, BCEWithLogits) else outputs


def answer_names(loss: Loss, num_outputs: int, classes: Sequence[str] | None) -> list[str]:
    """Return the column names of `answers`: `p_cat` and `p_dog`, or `value`, or `value_0`, `value_1`, ..."""
    device = next((tensor.device for tensor in loss.state_dict().values()), None)
    probabilities = loss.probabilities(torch.zeros(1, num_outputs, device=device))
    if probabilities is not None:
        return [f"p_{name}" for name in classes or range(probabilities.shape[1])]
    name = "p" if isinstance(loss, BCEWithLogits) else "value"
    return [name] if num_outputs == 1 else [f"{name}_{number}" for number in range(num_outputs)]
