"""Several models as one: the mean of their probabilities, or of their values in the units of the data."""

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from runner.loss import Loss, answers, outputs_of


class Ensemble(nn.Module):
    """The mean of models for serving; `make_ensemble` makes one.

    Args:
        members: each has its own normalisation and target units, and returns logits, or values in the units of the
            data.
        loss: says what these mean.
        answered: whether to return probabilities in place of logits.
    """

    def __init__(self, members: Sequence[nn.Module], loss: Loss, answered: bool) -> None:
        super().__init__()
        self.members, self.loss, self.answered = nn.ModuleList(members), loss, answered
        self.dtype = getattr(members[0], "dtype", None)

    @property
    def target_std(self) -> Tensor | None:
        """The largest scale of the members' training targets; None if they were not standardised."""
        scales = [member.target_std for member in self.members if getattr(member, "scaled", False)]
        return torch.stack([torch.as_tensor(scale) for scale in scales]).amax(0) if scales else None

    def mean(self, *values: Tensor, **named: Tensor) -> Tensor:
        """Compute (N, K) outputs of raw samples: probabilities, logits, or values in the units of the data."""
        each = [member(*values, **named) for member in self.members]
        mean = torch.stack([answers(self.loss, outputs) for outputs in each]).mean(0)
        return mean if self.answered else outputs_of(self.loss, mean, each[0].shape[1])


def make_ensemble(members: Sequence[nn.Module], loss: Loss, answered: bool) -> Ensemble:
    """Make an `Ensemble` whose `forward` takes the inputs of its members by their names, as a graph of it then does."""

    def forward(self: Ensemble, *values: Tensor, **named: Tensor) -> Tensor:
        return self.mean(*values, **named)

    signature: Any = inspect.signature(type(members[0]).forward)
    forward.__signature__ = signature  # type: ignore[attr-defined] # torch.export reads it
    made: Ensemble = type("Ensemble", (Ensemble,), {"forward": forward})(members, loss, answered)
    return made
