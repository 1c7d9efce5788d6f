"""What several ranks do together, whichever engine adds up their gradients."""

from collections.abc import Callable, Sequence
from time import perf_counter
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn

from runner.data.collate import Batch
from runner.data.share import Padding, Share
from runner.errors import ConfigError, Problem
from runner.model.probe import BATCH_NORM
from runner.strategy.single import Single
from runner.task import Step
from runner.util.ranks import Ranks, is_of_group

T = TypeVar("T")
N = TypeVar("N", bound=Tensor | float)

AGREE_SECONDS = 0.25
"""How often ranks ask each other whether to stop: an all-reduce takes 0.1 ms of a step (Gloo, one machine)."""

CALLS_BETWEEN = 100
"""The most calls that are answered without asking: later steps may take longer than those that were timed."""


class Ranked(Single):
    """Several ranks.

    Args:
        group: the ranks, which join before they train.
    """

    def __init__(self, group: Ranks) -> None:
        self._group, self.rank, self.ranks = group, group.rank, group.count
        self._votes: dict[str, _Vote] = {}

    def __str__(self) -> str:
        return f"{self.name}, {self.ranks} rank{'s' * (self.ranks > 1)}"

    @property
    def share(self) -> Share:
        """The share of each batch that this process takes."""
        return Share(self.rank, self.ranks)

    def normalized_parts(self, device: torch.device) -> int:
        """Return the number of parts that BatchNorm normalises each by itself; see `prepare`."""
        return 1 if device.type == "cuda" else self.ranks

    def prepare(self, model: nn.Module) -> nn.Module:
        """Let BatchNorm on GPUs use the statistics of all ranks. Rank 0 does this before the others have the config."""
        if any(weight.is_cuda for weight in model.parameters()):
            return nn.SyncBatchNorm.convert_sync_batchnorm(model)
        return model

    def start_alike(self, model: nn.Module) -> None:
        """Give the models of all ranks the weights of rank 0: a model may draw its own elsewhere than from the seed.

        Raises:
            ConfigError: they differ in more than values.
        """
        tensors = [*model.named_parameters(), *model.named_buffers()]
        mine = {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in tensors}
        first, *others = self.gather(mine)
        for rank, other in enumerate(others, start=1):
            if different := [name for name in {**first, **other} if first.get(name) != other.get(name)]:
                text = f"strategy={self.name}: the models of ranks 0 and {rank} differ in {different[0]}"
                raise ConfigError(Problem("model", text, "make the same model on each rank", topic="conflict"))
        for _, tensor in tensors:
            _copy_first(tensor)

    def notes(self, model: nn.Module) -> list[str]:
        """Return what the user should know before training."""
        layers = [module for module in model.modules() if isinstance(module, BATCH_NORM)]
        if self.ranks == 1 or all(isinstance(layer, nn.SyncBatchNorm) for layer in layers):
            return []
        return ["BatchNorm uses the statistics of each rank's share: torch has one over all ranks on GPUs only"]

    def add_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Add up the gradients of all ranks; one that only some ranks have is 0 for the others."""
        by_dtype: dict[torch.dtype, list[nn.Parameter]] = {}
        for weight in parameters:
            by_dtype.setdefault(weight.dtype, []).append(weight)
        for weights in by_dtype.values():
            gradients = [torch.zeros_like(w) if w.grad is None else w.grad.to_dense() for w in weights]
            has = gradients[0].new_tensor([weight.grad is not None for weight in weights])
            dist.all_reduce(total := torch.cat([has, *(gradient.flatten() for gradient in gradients)]))
            has, *sums = total.split([len(weights), *(weight.numel() for weight in weights)])
            for weight, anywhere, added in zip(weights, has.tolist(), sums, strict=True):
                weight.grad = added.view_as(weight).clone() if anywhere else None

    def sum(self, value: N) -> N:
        """Return the sum of a number, or a tensor, over all ranks."""
        total = value.clone() if isinstance(value, Tensor) else torch.tensor(value)
        dist.all_reduce(total)
        return cast(N, total if isinstance(value, Tensor) else total.item())

    def agree(self, question: str, answer: bool, now: bool = False) -> bool:
        """Return whether any rank says yes; see `Single`."""
        return self._votes.setdefault(question, _Vote()).ask(answer, now)

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
            _copy_first(buffer)

    def cause(self, error: BaseException) -> BaseException:
        """Return the error of another rank, if this one is of an operation among all."""
        return (self._group.cause() or error) if is_of_group(error) else error


@torch.no_grad()
def _copy_first(tensor: Tensor) -> None:
    """Copy the values of rank 0 into a tensor; as bytes, as Gloo does not know all types (torch 2.14)."""
    values = tensor.detach().contiguous().clone()
    if values.numel():
        dist.broadcast(values.view(-1).view(torch.uint8), 0)
        tensor.copy_(values)


class _Vote:
    """A question that ranks ask each other from time to time.

    How many calls are answered without asking follows from the calls in a second, of which all ranks take the largest.
    So they ask at the same calls.
    """

    def __init__(self) -> None:
        self._yes, self._calls, self._wait = False, 0, 0
        self._asked_at: float | None = None

    def ask(self, answer: bool, now: bool) -> bool:
        """Return whether any rank has said yes since the last time; False without asking, which `now` forbids."""
        self._yes |= answer
        self._calls += 1
        if self._calls <= self._wait and not now:
            return False
        at = perf_counter()
        rate = self._calls / max(at - self._asked_at, 1e-6) if self._asked_at is not None else 0.0
        votes = torch.tensor([float(self._yes), rate], dtype=torch.float64)
        dist.all_reduce(votes, op=dist.ReduceOp.MAX)
        yes, rate = votes.tolist()
        wait = min(int(rate * AGREE_SECONDS), CALLS_BETWEEN)
        self._yes, self._calls, self._wait, self._asked_at = False, 0, wait, at
        return bool(yes)


def counted(step: Step, batch: Batch) -> Step:
    """Return a step, which does not count if its batch is padding."""
    if not isinstance(batch, Padding):
        return step
    loss = step.loss * 0 if step.loss is not None else None
    return Step(loss, step.weight * 0, 0)
