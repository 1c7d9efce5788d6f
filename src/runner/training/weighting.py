"""The weight of a batch: what its loss is a mean over. A gradient is divided once, by the weight of the whole step."""

import torch
from torch import Tensor

from runner.data.loading import Loader
from runner.data.streaming import StreamLoader
from runner.task import Step
from runner.training.state import Training
from runner.util.shards import own_part


def share(state: Training, step: Step, index: int) -> Tensor:
    """Return the loss of a micro-batch times its share of the optimizer step, for the backward pass.

    The share is the weight of the micro-batch, divided by the number of samples of the whole step, which is known
    before its last micro-batch is computed. `correct_gradients` replaces that divisor by the sum of weights: the
    gradient is that of one large batch. Where weights are numbers of samples, there is nothing to replace.
    Several ranks average their gradients, so that each share is multiplied by their number.

    Args:
        state: adds up the weights of the step.
        step: of the micro-batch.
        index: of the micro-batch in the epoch, from 0.
    """
    accumulation, ranks = state.settings.grad_accumulation, state.strategy.ranks
    assert step.loss is not None
    if accumulation == ranks == 1 and state.progress.micro_batch is None:
        return step.loss
    weight = _exact(step.weight)
    state.weight = state.weight + weight
    return step.loss * (weight * ranks / samples_of_step(state.loaders.train, index, accumulation))


def correct_gradients(state: Training, index: int) -> None:
    """Divide the gradients of a step by its sum of weights, instead of the number of samples; then start the next.

    Args:
        state: the training; the backward passes of the step are done.
        index: of the last micro-batch of the step in the epoch, from 0.
    """
    accumulation = state.settings.grad_accumulation
    whole = accumulation == state.strategy.ranks == 1 and state.progress.micro_batch is None
    if whole or state.takes_turns:
        return
    weight, state.weight = state.weight, 0
    loader = state.loaders.train
    if isinstance(weight, Tensor) or state.settings.on_nonfinite == "skip" or isinstance(loader, StreamLoader):
        weight = state.strategy.sum(weight)
    elif state.strategy.ranks > 1:  # all samples of the step, which the gradients have been divided by
        return
    samples = samples_of_step(loader, index, accumulation)
    if not isinstance(weight, Tensor) and weight in (samples, 0):  # 0: all its losses were skipped
        return
    # A step whose weights are all 0 has no gradient.
    factor = torch.as_tensor(samples / weight).nan_to_num(posinf=1.0)
    gradients = [own_part(parameter.grad) for parameter in state.parameters if parameter.grad is not None]
    if gradients:
        with torch.no_grad():
            torch._foreach_mul_(gradients, factor.to(gradients[0]))


def _exact(weight: Tensor | int) -> Tensor | int:
    """Return a weight in float64, which a quotient of integers is not; MPS has no more than float32."""
    if not isinstance(weight, Tensor):
        return weight
    return weight.detach().to(torch.float32 if weight.device.type == "mps" else torch.float64)


def samples_of_step(loader: Loader, index: int, accumulation: int) -> int:
    """Return how many samples the optimizer step has that contains the batch `index` (from 0)."""
    first = index // accumulation * accumulation * loader.batch_size
    return min(first + accumulation * loader.batch_size, loader.samples) - first
