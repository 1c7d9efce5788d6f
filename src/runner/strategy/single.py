"""One process, which does everything: the identity, and what all strategies offer."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from runner.data.collate import Batch
from runner.data.share import WHOLE, Share
from runner.task import Step, Task

T = TypeVar("T")
N = TypeVar("N", bound=Tensor | float)


class Needs(NamedTuple):
    """What a rank has in memory of a model, beside activations.

    Attributes:
        share: of weights, gradients and the optimizer's state.
        weights: bytes of weights that are gathered.
        gradients: bytes of gradients on their way to other ranks.
    """

    share: float = 1.0
    weights: int = 0
    gradients: int = 0


class Single:
    """One process, which does everything: the identity.

    Attributes:
        name: the name in the config.
        divides: each rank has a part of each weight only.
        rank: the number of this process, from 0.
        ranks: the number of processes.
    """

    name = "single"
    divides = False
    rank, ranks = 0, 1

    def __str__(self) -> str:
        return self.name

    @property
    def share(self) -> Share:
        """The share of each batch that this process takes."""
        return WHOLE

    def normalized_parts(self, device: torch.device) -> int:
        """Return the number of parts of a training batch that BatchNorm normalises each by itself."""
        return 1

    def prepare(self, model: nn.Module) -> nn.Module:
        """Return the model for this strategy, before its optimizer is made. No rank waits for another in it."""
        return model

    def observing(self, model: nn.Module) -> AbstractContextManager[None]:
        """Return the context of a step that is tried before training, with a copy of the model."""
        return nullcontext()

    def divide(self, model: nn.Module, optimizer: torch.optim.Optimizer, frozen: list[nn.Parameter]) -> None:
        """Divide the weights between the ranks, which have joined; the three then have this rank's parts."""

    def plain(self, value: Any) -> Any:
        """Return a state with whole tensors; all ranks have to call it, and only that of rank 0 has the values."""
        return value

    def divided(
        self, state: Mapping[str, Any], model: nn.Module, optimizer: torch.optim.Optimizer | None = None
    ) -> dict[str, Any]:
        """Return a checkpoint with this rank's parts of the tensors of model and optimizer."""
        return dict(state)

    def whole(self, model: nn.Module) -> nn.Module:
        """Return the model with all its weights, after training; all ranks have to call it."""
        return model

    def start_alike(self, model: nn.Module) -> None:
        """Give the models of all ranks the weights of rank 0, before they train."""

    def needs(self, model: nn.Module) -> Needs:
        """Return what a rank has in memory at most, before the model is divided."""
        return Needs()

    def notes(self, model: nn.Module) -> list[str]:
        """Return what the user should know before training."""
        return []

    def measure(self, task: Task, model: nn.Module, batch: Batch, syncs: bool = True) -> Step:
        """Compute the step of a batch.

        Args:
            task: computes it.
            model: that of training, or in evaluation that of evaluation.
            batch: this rank's share.
            syncs: the backward pass that follows ends an optimizer step: ranks add up their gradients.
        """
        return task.measure(model, batch)

    def compile(self, model: nn.Module, mode: str) -> nn.Module:
        """Return a model that computes the same by compiled code, in a mode of `torch.compile`.

        It has the attributes of the model, and is compiled when it is called.
        """
        compiled = torch.compile(model, mode=mode)
        assert isinstance(compiled, nn.Module)
        return compiled

    def add_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Add up the gradients of all ranks, where `measure` has not prepared that: those of several optimizers."""

    def sum(self, value: N) -> N:
        """Return the sum of a number, or a tensor, over all ranks."""
        return value

    def agree(self, question: str, answer: bool, now: bool = False) -> bool:
        """Return whether any rank says yes. All ranks ask the same questions, in the same order.

        They ask each other a few times a second at most, and a yes may become known some steps later; `now`: each time.
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
