"""`strategy=ddp`: each rank has a copy of the model, and `DistributedDataParallel` averages the gradients."""

import re
from contextlib import nullcontext

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from runner.data.collate import Batch
from runner.errors import TrainingError
from runner.strategy.ranked import Ranked, counted
from runner.strategy.single import Needs
from runner.task import Step, Task
from runner.util.ranks import Ranks

SHOWN = 3

UNUSED = "Expected to have finished reduction in the prior iteration"
"""The error of torch at the step after one in which some parameters got no gradient."""


class DDP(Ranked):
    """Copies of the model on several ranks.

    Args:
        group: the ranks, which join before they train.
        find_unused_parameters: some parameters get no gradient in some steps.
    """

    name = "ddp"

    def __init__(self, group: Ranks, find_unused_parameters: bool = False) -> None:
        super().__init__(group)
        self._find_unused = find_unused_parameters
        self._wrapped: DistributedDataParallel | None = None
        self._trainable: list[bool] = []

    def needs(self, model: nn.Module) -> Needs:
        """Return the buckets in which gradients are sent; see `Single`."""
        return Needs(gradients=sum(w.numel() * w.element_size() for w in model.parameters() if w.requires_grad))

    def measure(self, task: Task, model: nn.Module, batch: Batch, syncs: bool = True) -> Step:
        """Compute the step of this rank's share; see `Single`.

        Raises:
            TrainingError: some parameters got no gradient in the step before, and the engine was not told so.
        """
        if not torch.is_grad_enabled():
            return counted(task.measure(model, batch), batch)
        module = self._wrap(task, model)
        try:
            with nullcontext() if syncs else module.no_sync():
                return counted(module(batch), batch)
        except RuntimeError as error:
            if UNUSED not in str(error):
                raise
            raise TrainingError(
                f"strategy=ddp: {_unused(module, str(error))} got no gradient in a step; "
                "write strategy.find_unused_parameters=true, or freeze by model.freeze what no step uses"
            ) from error

    def _wrap(self, task: Task, model: nn.Module) -> DistributedDataParallel:
        """Return task and model as the engine takes them; again if other parameters are trained now."""
        whole = self._wrapped.module if self._wrapped is not None else _Whole(task, model)
        trainable = [weight.requires_grad for weight in whole.parameters()]
        if self._wrapped is None or trainable != self._trainable:
            self._wrapped = DistributedDataParallel(whole, find_unused_parameters=self._find_unused)
            self._trainable = trainable
        return self._wrapped


class _Whole(nn.Module):
    """Task and model as one module, whose forward pass is the step: the task may call any method of the model."""

    def __init__(self, task: Task, model: nn.Module) -> None:
        super().__init__()
        self.task, self.model = task, model

    def forward(self, batch: Batch) -> Step:
        return self.task.measure(self.model, batch)


def _unused(module: DistributedDataParallel, error: str) -> str:
    """Name the parameters without a gradient, which torch's error has by their numbers on this rank."""
    numbers = re.search(r"did not receive grad[^:]*: ((?:\d+ ?)+)", error)
    if numbers is None:
        return "a parameter"
    trained = [name for name, weight in module.module.named_parameters() if weight.requires_grad]
    names = [trained[int(number)].removeprefix("model.") for number in numbers[1].split()]
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")
