"""The optimizers of several models: the rules of torch for all parts of stacked tensors, each with its own numbers."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from runner.training.stacked_step import Stack

NUMBERS = ("lr", "momentum", "weight_decay")
"""What may differ in the groups of the optimizers."""


class SGD:
    """`torch.optim.SGD` for all models."""

    def __init__(self, stack: "Stack") -> None:
        self._stack = stack
        self._momentum = stack.share("momentum_buffer", lambda group: group["momentum"] != 0)
        self._nesterov = [bool(group["nesterov"]) for group in stack.states[0].optimizer.param_groups]

    def read_numbers(self, groups: Sequence[Sequence[dict[str, Any]]]) -> None:
        """Read the numbers of each group of each model."""
        numbers = [{key: [float(group[key]) for group in of_models] for key in NUMBERS} for of_models in groups]
        self._columns = [
            {key: self._stack.column(values) for key, values in each.items() if any(values)} for each in numbers
        ]

    def count_step(self) -> None:
        """Do nothing: no step depends on how many were taken."""

    def update(self, number: int, name: str, weights: Tensor, gradients: Tensor) -> None:
        """Update the weights (K, ...) of a parameter by their gradients, which are changed.

        Args:
            number: of the group of the parameter.
            name: of the parameter.
            weights: they are changed.
            gradients: likewise.
        """
        columns = {key: along(column, weights) for key, column in self._columns[number].items()}
        if "weight_decay" in columns:
            gradients.addcmul_(weights, columns["weight_decay"])
        change = gradients
        if "momentum" in columns:
            momentum = self._momentum[name]
            change = torch.addcmul(gradients, momentum, columns["momentum"], out=momentum)
            if self._nesterov[number]:
                change = gradients.addcmul_(change, columns["momentum"])
        if "lr" in columns:
            weights.addcmul_(change, columns["lr"], value=-1)


class Adam:
    """`torch.optim.Adam` and `AdamW` for all models."""

    def __init__(self, stack: "Stack") -> None:
        self._first, self._second = stack.share("exp_avg"), stack.share("exp_avg_sq")
        groups = stack.states[0].optimizer.param_groups
        self._decoupled = [bool(group["decoupled_weight_decay"]) for group in groups]
        self._eps = [float(group["eps"]) for group in groups]
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
            device = next(iter(self._first.values())).device
            columns = {
                key: torch.tensor(each, dtype=torch.float64, device=device)
                for key, each in values.items()
                if any(each) or key != "weight_decay"
            }
            self._columns.append(columns)

    def count_step(self) -> None:
        """Count a step of each model."""
        self._steps.add_(1)

    def update(self, number: int, name: str, weights: Tensor, gradients: Tensor) -> None:
        """Update the weights (K, ...) of a parameter by their gradients; see `SGD.update`."""
        columns, dtype = self._columns[number], weights.dtype
        lr, beta1, beta2 = (columns[key] for key in ("lr", "beta1", "beta2"))

        def number_of(column: Tensor) -> Tensor:
            return along(column.to(dtype), weights)

        if "weight_decay" in columns:
            if self._decoupled[number]:
                weights.mul_(number_of(1 - lr * columns["weight_decay"]))
            else:
                gradients.addcmul_(weights, number_of(columns["weight_decay"]))
        first, second = self._first[name], self._second[name]
        first.lerp_(gradients, number_of(1 - beta1))
        second.mul_(number_of(beta2)).addcmul_(gradients.square(), number_of(1 - beta2))
        steps = self._steps.to(lr)
        size, scale = lr / (1 - beta1**steps), (1 - beta2**steps).sqrt()
        divisor = second.sqrt().div_(number_of(scale)).add_(self._eps[number])
        weights.addcmul_(torch.div(first, divisor, out=divisor), number_of(size), value=-1)


def along(column: Tensor, like: Tensor) -> Tensor:
    """Return a number of each model (K,) in a shape that goes with tensors (K, ...)."""
    return column.view(-1, *[1] * (like.ndim - 1))
