"""Who trains: one process, or several that share the work. `strategy=single|ddp`.

Several processes, the ranks, take a share each of every batch. Torch's engine averages their gradients; the loss of a
share is weighted so that this is the gradient of the whole batch. All ranks take the same steps, and end together.
"""

from collections.abc import Callable
from contextlib import nullcontext
from time import perf_counter
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from runner.data.collate import Batch
from runner.data.share import WHOLE, Padding, Share
from runner.device import Device
from runner.errors import ConfigError, Problem
from runner.task import Step, Task
from runner.util.ranks import Ranks

T = TypeVar("T")
N = TypeVar("N", bound=Tensor | float)

AGREE_SECONDS = 0.25
"""How often ranks ask each other whether to stop: an all-reduce takes 0.1 ms of a step (Gloo, one machine)."""


OF_GROUP = ("gloo", "NCCL", "ProcessGroup", "TCPStore", "Connection closed by peer", "Connection reset by peer")
"""Words of the errors of operations among ranks."""


class Single:
    """One process, which does everything: the identity.

    Attributes:
        name: the name in the config.
        rank: the number of this process, from 0.
        ranks: the number of processes.
    """

    name = "single"
    rank, ranks = 0, 1

    def __str__(self) -> str:
        return self.name

    @property
    def share(self) -> Share:
        """The share of each batch that this process takes."""
        return WHOLE

    def prepare(self, model: nn.Module) -> nn.Module:
        """Return the model for this strategy, before its optimizer is made."""
        return model

    def measure(self, task: Task, model: nn.Module, batch: Batch, syncs: bool = True) -> Step:
        """Compute the step of a batch.

        Args:
            task: computes it.
            model: that of training, or in evaluation that of evaluation.
            batch: this rank's share.
            syncs: the backward pass that follows ends an optimizer step: ranks add up their gradients.
        """
        return task.measure(model, batch)

    def sum(self, value: N) -> N:
        """Return the sum of a number, or a tensor, over all ranks."""
        return value

    def agree(self, question: str, answer: bool) -> bool:
        """Return whether any rank says yes. All ranks ask the same questions, in the same order.

        They ask each other a few times a second at most: a yes may become known some steps later.
        """
        return answer

    def gather(self, value: T) -> list[T]:
        """Return the values of all ranks, in their order."""
        return [value]

    def send(self, make: Callable[[], T]) -> T:
        """Return what rank 0 makes."""
        return make()

    def level(self, module: nn.Module) -> None:
        """Give the buffers of all ranks the values of rank 0: those of BatchNorm differ between them."""

    def cause(self, error: BaseException) -> BaseException:
        """Return the error of another rank that has led to this one; this one if there is none."""
        return error


class DDP(Single):
    """Copies of the model on several ranks, whose gradients `DistributedDataParallel` averages.

    Args:
        group: the ranks, which have joined.
        find_unused_parameters: some parameters get no gradient in some steps.
    """

    name = "ddp"

    def __init__(self, group: Ranks, find_unused_parameters: bool = False) -> None:

        self._group, self.rank, self.ranks = group, group.rank, group.count
        self._find_unused = find_unused_parameters
        self._wrapped: DistributedDataParallel | None = None
        self._trainable: list[bool] = []
        self._votes: dict[str, _Vote] = {}

    def __str__(self) -> str:
        return f"{self.name}, {self.ranks} rank{'s' * (self.ranks > 1)}"

    @property
    def share(self) -> Share:
        """The share of each batch that this process takes."""
        return Share(self.rank, self.ranks)

    def prepare(self, model: nn.Module) -> nn.Module:
        """Let BatchNorm on GPUs use the statistics of all ranks; on a CPU torch has no such layer."""
        if any(weight.is_cuda for weight in model.parameters()):
            return nn.SyncBatchNorm.convert_sync_batchnorm(model)
        return model

    def measure(self, task: Task, model: nn.Module, batch: Batch, syncs: bool = True) -> Step:
        """Compute the step of this rank's share; see `Single`."""
        if not torch.is_grad_enabled():
            return _without(task.measure(model, batch), batch)
        module = self._wrap(task, model)
        with nullcontext() if syncs else module.no_sync():
            return _without(module(batch), batch)

    def _wrap(self, task: Task, model: nn.Module) -> DistributedDataParallel:
        """Return task and model as the engine takes them; again if other parameters are trained now."""
        whole = self._wrapped.module if self._wrapped is not None else _Whole(task, model)
        trainable = [weight.requires_grad for weight in whole.parameters()]
        if self._wrapped is None or trainable != self._trainable:
            self._wrapped = DistributedDataParallel(whole, find_unused_parameters=self._find_unused)
            self._trainable = trainable
        return self._wrapped

    def sum(self, value: N) -> N:
        """Return the sum of a number, or a tensor, over all ranks."""
        total = value.clone() if isinstance(value, Tensor) else torch.tensor(value)
        dist.all_reduce(total)
        return cast(N, total if isinstance(value, Tensor) else total.item())

    def agree(self, question: str, answer: bool) -> bool:
        """Return whether any rank says yes; see `Single`."""
        return self._votes.setdefault(question, _Vote()).ask(answer)

    def gather(self, value: T) -> list[T]:
        """Return the values of all ranks, in their order."""
        values: list[Any] = [None] * self.ranks
        dist.all_gather_object(values, value)
        return values

    def send(self, make: Callable[[], T]) -> T:
        """Return what rank 0 makes."""
        values: list[Any] = [make() if self.rank == 0 else None]
        dist.broadcast_object_list(values, device=torch.device("cpu"))
        return values[0]

    def level(self, module: nn.Module) -> None:
        """Give the buffers of all ranks the values of rank 0."""
        for buffer in module.buffers():
            dist.broadcast(buffer, 0)

    def cause(self, error: BaseException) -> BaseException:
        """Return the error of another rank, if this one is of an operation among all."""
        of_group = isinstance(error, RuntimeError) and any(word in str(error) for word in OF_GROUP)
        return (self._group.cause() or error) if of_group else error


Strategy = Single
"""What the loop uses: one of these classes."""


class _Whole(nn.Module):
    """Task and model as one module, whose forward pass is the step: the task may call any method of the model."""

    def __init__(self, task: Task, model: nn.Module) -> None:
        super().__init__()
        self.task, self.model = task, model

    def forward(self, batch: Batch) -> Step:
        return self.task.measure(self.model, batch)


class _Vote:
    """A question that ranks ask each other from time to time.

    How many calls are answered without asking follows from the calls in a second, of which all ranks take the largest.
    So they ask at the same calls.
    """

    def __init__(self) -> None:
        self._yes, self._calls, self._wait = False, 0, 0
        self._asked_at: float | None = None

    def ask(self, answer: bool) -> bool:
        """Return whether any rank has said yes since the last time; False without asking."""
        self._yes |= answer
        self._calls += 1
        if self._calls <= self._wait:
            return False
        now = perf_counter()
        rate = self._calls / max(now - self._asked_at, 1e-6) if self._asked_at is not None else 0.0
        votes = torch.tensor([float(self._yes), rate], dtype=torch.float64)
        dist.all_reduce(votes, op=dist.ReduceOp.MAX)
        yes, rate = votes.tolist()
        self._yes, self._calls, self._wait, self._asked_at = False, 0, int(rate * AGREE_SECONDS), now
        return bool(yes)


def _without(step: Step, batch: Batch) -> Step:
    """Return a step that does not count, if its batch is padding."""
    if not isinstance(batch, Padding):
        return step
    loss = step.loss * 0 if step.loss is not None else None
    weight = step.weight * 0
    return Step(loss, weight, 0)


def make_strategy(name: str, device: Device, find_unused_parameters: bool = False) -> Strategy:
    """Make the strategy of a config; one process without ranks, such as `runner.evaluate`, does everything itself.

    Raises:
        ConfigError: this machine has fewer GPUs than ranks.
    """
    group = Ranks.here()
    if name == "single" or group is None:
        return Single()
    if device.torch.type == "cuda" and group.local_rank == 0 and torch.cuda.device_count() < group.local_count:
        text = f"strategy={name}: this machine has {torch.cuda.device_count()} GPUs for {group.local_count} ranks"
        raise ConfigError(Problem("strategy", text, "start fewer ranks, or write device=cpu", topic="unavailable"))
    return DDP(group, find_unused_parameters)
