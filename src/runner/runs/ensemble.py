"""Several models as one: the mean of their probabilities, or of their values in the units of the data."""

import inspect
from collections.abc import Mapping, Sequence
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

    def mean(self, inputs: Sequence[Mapping[str, Tensor]]) -> Tensor:
        """Compute (N, K) outputs of raw samples: probabilities, logits, or values in the units of the data.

        Args:
            inputs: of each member, by name.
        """
        each = [member(**named) for member, named in zip(self.members, inputs, strict=True)]
        mean = torch.stack([answers(self.loss, outputs) for outputs in each]).mean(0)
        return mean if self.answered else outputs_of(self.loss, mean, each[0].shape[1])


def make_ensemble(members: Sequence[nn.Module], loss: Loss, answered: bool, apart: bool = False) -> Ensemble:
    """Make an `Ensemble` whose `forward` takes the inputs of its members by their names, as a graph of it then does.

    Args:
        members: see `Ensemble`, as the others.
        loss: see there.
        answered: see there.
        apart: whether each member has inputs of its own, whose names end in its number: `inputs_0`, `inputs_1`.
    """
    _, *own = inspect.signature(type(members[0]).forward).parameters
    names = [name_of_input(name, number) for number in range(len(members)) for name in own] if apart else own

    def forward(self: Ensemble, *values: Tensor, **named: Tensor) -> Tensor:
        bound = dict(zip(names, values, strict=False)) | named
        if not apart:
            return self.mean([bound] * len(members))
        return self.mean([{name: bound[name_of_input(name, number)] for name in own} for number in range(len(members))])

    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    signature: Any = inspect.Signature([inspect.Parameter(name, kind) for name in ("self", *names)])
    forward.__signature__ = signature  # type: ignore[attr-defined] # torch.export reads it
    made: Ensemble = type("Ensemble", (Ensemble,), {"forward": forward})(members, loss, answered)
    return made


def name_of_input(name: str, member: int) -> str:
    """Return the name of an input of a single member; `served_rows.py` knows it too."""
    return f"{name}_{member}"
