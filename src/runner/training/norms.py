"""`trainer.log_norms`: the norms of gradients and weights by layer, read only when they are logged."""

import math
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from runner.task import Task
from runner.training.progress import Metrics
from runner.util.shards import own_part

if TYPE_CHECKING:
    from runner.training.state import Training

GRADIENT, WEIGHT = "norm/gradient", "norm/weight"


def layer_norms(state: "Training", parameters: Iterable[nn.Parameter] | None = None) -> Metrics:
    """Measure the norms for the step to come, if it is to be logged or may be the last of its epoch; else return none.

    Args:
        state: the training; all gradients of the step are there.
        parameters: those of one of several optimizers; None: all.
    """
    if state.norms is None:
        return {}
    progress, every = state.progress, state.settings.log_every_steps
    step = progress.step + 1
    last = progress.batch == len(state.loaders.train) or step == state.settings.max_steps
    due = last or (every is not None and step % every == 0)
    total = state.strategy.sum if state.strategy.divides else None
    return state.norms.measure(state.precision.scale, parameters, total) if due else {}


class LayerNorms:
    """The layers of a training: modules with trainable parameters of their own.

    Args:
        model: its layers are named by their modules; a parameter of the model itself by its own name.
        task: the same, with `task.` before the names.
        trained: the trainable parameters; others are left out.
    """

    def __init__(self, model: nn.Module, task: Task, trained: Iterable[nn.Parameter]) -> None:
        wanted = {id(parameter) for parameter in trained}
        self._layers: list[tuple[str, nn.Parameter]] = []
        for prefix, root in (("", model), ("task.", task)):
            for module_name, module in root.named_modules():
                for name, parameter in module.named_parameters(recurse=False):
                    if id(parameter) in wanted:
                        wanted.remove(id(parameter))  # one that two modules share belongs to the first
                        self._layers.append((prefix + (module_name or name), parameter))

    @torch.no_grad()
    def measure(
        self,
        scale: float,
        only: Iterable[nn.Parameter] | None = None,
        total: Callable[[Tensor], Tensor] | None = None,
    ) -> Metrics:
        """Return the norms of the gradients so far and of the weights that they belong to: one read of the device.

        Args:
            scale: by which a GradScaler has multiplied the gradients.
            only: the parameters to measure; None: all.
            total: adds up over the ranks, if each has a part of a tensor; None: it has all.

        Returns:
            `norm/gradient/<layer>`, of layers that have a gradient, and `norm/weight/<layer>`.
        """
        wanted = None if only is None else {id(parameter) for parameter in only}
        layers = [(layer, weight) for layer, weight in self._layers if wanted is None or id(weight) in wanted]
        gradients = [(f"{GRADIENT}/{layer}", weight.grad) for layer, weight in layers if weight.grad is not None]
        named: list[tuple[str, Tensor]] = [*gradients, *((f"{WEIGHT}/{layer}", weight) for layer, weight in layers)]
        if not named:
            return {}
        norms = torch._foreach_norm([_values(own_part(tensor)) for _, tensor in named])
        stacked = torch.stack(norms)
        numbers = (stacked if total is None else total(stacked.square()).sqrt()).tolist()
        squares: dict[str, float] = {}
        for number, (name, _) in enumerate(named):
            norm = numbers[number] / scale if number < len(gradients) else numbers[number]
            squares[name] = squares.get(name, 0.0) + norm * norm
        return {name: math.sqrt(square) for name, square in squares.items()}


def _values(tensor: Tensor) -> Tensor:
    """Return the values of a tensor: of a sparse gradient those that it has, each once."""
    return tensor.coalesce().values() if tensor.is_sparse else tensor
