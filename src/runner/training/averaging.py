"""An exponential moving average of the weights: `trainer.ema_decay`."""

from collections.abc import Iterator, Mapping
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from runner.util.buffers import load_module


class WeightAverage:
    """Averages weights and buffers step by step: `decay` of the average, and `1 - decay` of what is new.

    What cannot be averaged is the model's: buffers that are not floating point (indices, masks, counters), those with
    infinities in them (masks again), and what modules keep as extra state.

    The first step sets the average to the weights it leads to. (Polyak and Juditsky, 1992, for plain means; this
    form as `torch.optim.swa_utils` has it, whose `AveragedModel` copies its counter to the device in every step, and
    waits for it.)
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model = deepcopy(model).requires_grad_(False)
        self._average, self._steps = get_ema_multi_avg_fn(decay), 0
        self._modules = list(zip(self.model.modules(), model.modules(), strict=True))
        # Infinities less infinities are no number. Asked once: each step would wait for the device.
        self._infinite = {
            (id(module), name)
            for _, module in self._modules
            for name, tensor in (*module._buffers.items(), *module._parameters.items())
            if tensor is not None and _can_be_averaged(tensor) and not tensor.isfinite().all()
        }
        self._extra = [pair for pair in self._modules if type(pair[1]).get_extra_state is not nn.Module.get_extra_state]

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Take in the weights after a step; the model is the one that this began with."""
        by_dtype: dict[torch.dtype, tuple[list[Tensor], list[Tensor]]] = {}
        for averaged, current, can_be in self._pairs():
            if self._steps == 0 or not can_be:
                averaged.copy_(current)
            else:  # of each dtype, all tensors at once
                of_it = by_dtype.setdefault(averaged.dtype, ([], []))
                of_it[0].append(averaged)
                of_it[1].append(current)
        for averages, currents in by_dtype.values():
            self._average(averages, currents, self._steps)
        for own, module in self._extra:
            own.set_extra_state(deepcopy(module.get_extra_state()))
        self._steps += 1

    def _pairs(self) -> Iterator[tuple[Tensor, Tensor, bool]]:
        """Each parameter and buffer of the average with the model's, once, and whether it can be averaged."""
        seen: set[int] = set()
        for own, module in self._modules:
            of_module: tuple[tuple[Any, Any, bool], ...] = (
                (own._parameters, module._parameters, False),
                (own._buffers, module._buffers, True),
            )
            for mine, theirs, buffers in of_module:
                for name, current in theirs.items():
                    if current is None:
                        mine[name] = None
                    if current is None or id(current) in seen:
                        continue
                    seen.add(id(current))
                    averaged = mine.get(name)
                    if averaged is None or averaged.shape != current.shape:  # a buffer made, or replaced, in training
                        averaged = mine[name] = current.detach().clone()
                    can_be = _can_be_averaged(current) and not (buffers and current.is_complex())
                    yield averaged, current, can_be and (id(module), name) not in self._infinite

    def state_dict(self) -> dict[str, Any]:
        """The averaged weights, by the model's own names, and how many steps they are of."""
        return {"weights": self.model.state_dict(), "steps": self._steps}

    def load_state_dict(self, state: dict[str, Any], unsaved: Mapping[str, Tensor | None] | None = None) -> None:
        """Go on with the state of `state_dict`, and with the buffers that are not in it."""
        load_module(self.model, state["weights"], unsaved)
        self._steps = state["steps"]


def _can_be_averaged(tensor: Tensor) -> bool:
    """Whether there is arithmetic for it: eight-bit floats are for storage alone."""
    return (tensor.is_floating_point() and tensor.element_size() > 1) or tensor.is_complex()
