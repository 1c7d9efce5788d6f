"""An exponential moving average of the weights: `trainer.ema_decay`."""

from typing import Any

from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn


class WeightAverage:
    """Averages weights and buffers step by step: `decay` of the average, and `1 - decay` of what is new.

    The first step sets the average to the weights it leads to. (Polyak and Juditsky, 1992, for plain means; this
    form as `torch.optim.swa_utils` has it.)
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self._averaged = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)
        self.model: nn.Module = self._averaged.module
        self.model.requires_grad_(False)

    def update(self, model: nn.Module) -> None:
        """Take in the weights after a step."""
        self._averaged.update_parameters(model)

    def state_dict(self) -> dict[str, Any]:
        """The averaged weights, by the model's own names, and how many steps they are of."""
        return {"weights": self.model.state_dict(), "steps": int(self._averaged.n_averaged)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on with the state of `state_dict`."""
        self.model.load_state_dict(state["weights"])
        self._averaged.n_averaged.fill_(state["steps"])
