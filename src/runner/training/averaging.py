"""An exponential moving average of the weights: `trainer.ema_decay`."""

from collections.abc import Iterator, Mapping
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from runner.util.buffers import load_module


class WeightAverage:
    """An exponential moving average of weights and buffers: `decay` of the average, `1 - decay` of the new values.

    Values that cannot be averaged are copied from the model: buffers that are not floating point (indices, masks,
    counters) or contain infinities (masks), and the extra state of modules.

    The first step sets the average to the weights after it. (Polyak and Juditsky, 1992, for plain means; this form is
    that of `torch.optim.swa_utils`, whose `AveragedModel` copies its counter to the device in each step and waits.)
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.model = deepcopy(model).requires_grad_(False)
        self._average, self._steps = get_ema_multi_avg_fn(decay), 0
        self._modules = list(zip(self.model.modules(), model.modules(), strict=True))
        # inf - inf is nan. Checked once, because the check waits for the device.
        self._infinite = {
            (id(module), name)
            for _, module in self._modules
            for name, tensor in (*module._buffers.items(), *module._parameters.items())
            if tensor is not None and _can_be_averaged(tensor) and not tensor.isfinite().all()
        }
        self._extra = [pair for pair in self._modules if type(pair[1]).get_extra_state is not nn.Module.get_extra_state]

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Add the weights after a step; the model must be the one passed to the constructor."""
        by_dtype: dict[torch.dtype, tuple[list[Tensor], list[Tensor]]] = {}
        for averaged, current, averageable in self._pairs():
            if self._steps == 0 or not averageable:
                averaged.copy_(current)
            else:  # all tensors of a dtype at once
                averages, currents = by_dtype.setdefault(averaged.dtype, ([], []))
                averages.append(averaged)
                currents.append(current)
        for averages, currents in by_dtype.values():
            self._average(averages, currents, self._steps)
        for own, module in self._extra:
            own.set_extra_state(deepcopy(module.get_extra_state()))
        self._steps += 1

    def count_step(self) -> int:
        """Count a step whose weights another adds to the average; return the number of steps before it."""
        self._steps += 1
        return self._steps - 1

    def _pairs(self) -> Iterator[tuple[Tensor, Tensor, bool]]:
        """Yield each parameter and buffer of average and model once, and whether it can be averaged."""
        seen: set[int] = set()
        for own, module in self._modules:
            groups: tuple[tuple[Any, Any, bool], ...] = (
                (own._parameters, module._parameters, False),
                (own._buffers, module._buffers, True),
            )
            for mine, theirs, buffers in groups:
                for name, current in theirs.items():
                    if current is None:
                        mine[name] = None
                    if current is None or id(current) in seen:
                        continue
                    seen.add(id(current))
                    averaged = mine.get(name)
                    if (
                        averaged is None or averaged.shape != current.shape
                    ):  # a buffer that training created or replaced
                        averaged = mine[name] = current.detach().clone()
                    averageable = _can_be_averaged(current) and not (buffers and current.is_complex())
                    yield averaged, current, averageable and (id(module), name) not in self._infinite

    def state_dict(self) -> dict[str, Any]:
        """Return the averaged weights under the names of the model, and the number of steps."""
        return {"weights": self.model.state_dict(), "steps": self._steps}

    def load_state_dict(self, state: dict[str, Any], unsaved: Mapping[str, Tensor | None] | None = None) -> None:
        """Restore a state that `state_dict` returned, and the buffers that it lacks."""
        load_module(self.model, state["weights"], unsaved)
        self._steps = state["steps"]


def _can_be_averaged(tensor: Tensor) -> bool:
    """Return whether the dtype has arithmetic; 8-bit floats are for storage only."""
    return (tensor.is_floating_point() and tensor.element_size() > 1) or tensor.is_complex()
