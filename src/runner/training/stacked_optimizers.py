"""The optimizers of several models: the rules of torch for all rows of stacked tensors, each with its own numbers."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from runner.training.stacked_step import Stack

NUMBERS = ("lr", "momentum", "weight_decay")
"""What may differ in the groups of the optimizers."""


class SGD:
    """`torch.optim.SGD` for all rows."""

    def __init__(self, stack: "Stack") -> None:
        self._stack, self._momentum = stack, stack.rows()
        self._nesterov = [bool(group["nesterov"]) for group in stack.states[0].optimizer.param_groups]
        stack.share("momentum_buffer", self._momentum, lambda group: group["momentum"] != 0)

    def read_numbers(self, groups: Sequence[Sequence[dict[str, Any]]]) -> None:
        """Read the numbers of each group of each model."""
        self._numbers = [{key: [float(group[key]) for group in of_models] for key in NUMBERS} for of_models in groups]
        self._columns = [
            {key: self._stack.column(values) for key, values in numbers.items() if any(values)}
            for numbers in self._numbers
        ]

    def count_step(self) -> None:
        """Do nothing: no step depends on how many were taken."""

    def update(self, number: int, weights: Tensor, gradients: Tensor, group: slice) -> None:
        """Update the weights of a group (K, P) by their gradients, which are changed."""
        columns = self._columns[number]
        if "weight_decay" in columns:
            gradients.addcmul_(weights, columns["weight_decay"])
        change = gradients
        if "momentum" in columns:
            change = self._momentum[:, group].mul_(columns["momentum"]).add_(gradients)
            if self._nesterov[number]:
                change = gradients.addcmul_(change, columns["momentum"])
        if "lr" in columns:
            weights.addcmul_(change, columns["lr"], value=-1)


class Adam:
    """`torch.optim.Adam` and `AdamW` for all rows."""

    def __init__(self, stack: "Stack") -> None:
        self._stack, self._first, self._second = stack, stack.rows(), stack.rows()
        groups = stack.states[0].optimizer.param_groups
        self._decoupled = [bool(group["decoupled_weight_decay"]) for group in groups]
        self._eps = [float(group["eps"]) for group in groups]
        stack.share("exp_avg", self._first)
        stack.share("exp_avg_sq", self._second)
        self._steps = torch.zeros(len(stack.states), dtype=torch.float32)
        for state, steps in zip(stack.states, self._steps, strict=True):
            for own in state.optimizer.state.values():
                if "step" in own:
                    steps.copy_(own["step"])
                own["step"] = steps

    def read_numbers(self, groups: Sequence[Sequence[dict[str, Any]]]) -> None:
        """Read the numbers of each group of each model."""
        self._columns: list[dict[str, Tensor]] = []
        for of_models in groups:
            values = {key: [float(group[key]) for group in of_models] for key in ("lr", "weight_decay")}
            values |= {f"beta{i + 1}": [float(group["betas"][i]) for group in of_models] for i in (0, 1)}
            columns = {
                key: torch.tensor(each, dtype=torch.float64, device=self._first.device).unsqueeze(1)
                for key, each in values.items()
                if any(each) or key != "weight_decay"
            }
            self._columns.append(columns)

    def count_step(self) -> None:
        """Count a step of each model."""
        self._steps.add_(1)

    def update(self, number: int, weights: Tensor, gradients: Tensor, group: slice) -> None:
        """Update the weights of a group (K, P) by their gradients, which are changed."""
        columns, dtype = self._columns[number], weights.dtype
        lr, beta1, beta2 = (columns[key] for key in ("lr", "beta1", "beta2"))
        if "weight_decay" in columns:
            if self._decoupled[number]:
                weights.mul_((1 - lr * columns["weight_decay"]).to(dtype))
            else:
                gradients.addcmul_(weights, columns["weight_decay"].to(dtype))
        first, second = self._first[:, group], self._second[:, group]
        first.lerp_(gradients, (1 - beta1).to(dtype))
        second.mul_(beta2.to(dtype)).addcmul_(gradients.square(), (1 - beta2).to(dtype))
        steps = self._steps.to(lr).unsqueeze(1)
        size, scale = lr / (1 - beta1**steps), (1 - beta2**steps).sqrt()
        divisor = (second.sqrt() / scale.to(dtype)).add_(self._eps[number])
        weights.addcmul_(first / divisor, size.to(dtype), value=-1)
