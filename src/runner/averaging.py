"""An exponential moving average of the weights: `trainer.ema_decay`."""

from copy import deepcopy
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn


class WeightAverage:
    """Averages weights and buffers step by step: `decay` of the average, and `1 - decay` of what is new.

    The first step sets the average to the weights it leads to. (Polyak and Juditsky, 1992, for plain means; this
    form as `torch.optim.swa_utils` has it, whose `AveragedModel` copies its counter to the device in every step, and
    waits for it.)
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model = deepcopy(model).requires_grad_(False)
        self._average, self._steps = get_ema_multi_avg_fn(decay), 0

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Take in the weights after a step."""
        pairs = list(zip(_tensors(self.model), _tensors(model), strict=True))
        if self._steps == 0:
            for averaged, current in pairs:
                averaged.copy_(current)
        else:
            for dtype in {averaged.dtype for averaged, _ in pairs}:  # of each, all tensors at once
                of_it = [pair for pair in pairs if pair[0].dtype == dtype]
                self._average([averaged for averaged, _ in of_it], [current for _, current in of_it], self._steps)
        self._steps += 1

    def state_dict(self) -> dict[str, Any]:
        """The averaged weights, by the model's own names, and how many steps they are of."""
        return {"weights": self.model.state_dict(), "steps": self._steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on with the state of `state_dict`."""
        self.model.load_state_dict(state["weights"])
        self._steps = state["steps"]


def _tensors(model: nn.Module) -> chain[Tensor]:
    return chain(model.parameters(), model.buffers())
