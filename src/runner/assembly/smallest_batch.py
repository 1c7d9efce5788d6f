"""Check that the model can be trained on the smallest share of a batch: BatchNorm needs two values of a channel."""

import torch
from torch import nn

from runner.assembly.models import try_step
from runner.data.splits import Splits
from runner.device import Device
from runner.errors import ConfigError, Problem
from runner.model import probe
from runner.strategy import Strategy
from runner.task import Task

KEY = "data.batch_size"


def check_smallest_batch(
    task: Task,
    model: nn.Module,
    splits: Splits,
    batch_size: int,
    dtype: torch.dtype,
    strategy: Strategy,
    device: Device,
) -> None:
    """Check that the model can be trained on a single sample, if BatchNorm gets no more of some batch.

    Args:
        task: on the CPU, like the model.
        model: takes the samples.
        splits: the data.
        batch_size: of all ranks together.
        dtype: of the weights.
        strategy: divides each batch.
        device: of the training.

    Raises:
        ConfigError: BatchNorm would have a single value per channel, which has no variance.
    """
    samples, parts = len(splits.train), strategy.normalized_parts(device.torch)

    def smallest(size: int) -> int:
        """Return the samples of the smallest batch, with this size of the others."""
        return min(size, samples % size or size)

    if smallest(batch_size) >= 2 * parts or not needs_two(task, model, splits, dtype):
        return
    if parts == 1:
        text = f"{KEY}={batch_size} leaves a batch of one sample, for which BatchNorm cannot compute a variance"
    else:
        text = f"{KEY}={batch_size} leaves a batch of {smallest(batch_size)} for {parts} ranks, and BatchNorm cannot "
        text += "compute the variance of a single sample"
    sizes = range(2 * parts, min(samples, 2 * (batch_size + parts)) + 1, parts if splits.train.streams else 1)
    fitting = [size for size in sizes if smallest(size) >= 2 * parts]
    nearest = min(fitting, key=lambda size: abs(size - batch_size), default=None)
    instead = f"write {KEY}={nearest}" if nearest else "train on more samples"
    raise ConfigError(Problem(KEY, text, instead + ", or start fewer ranks" * (parts > 1), topic="conflict"))


def needs_two(task: Task, model: nn.Module, splits: Splits, dtype: torch.dtype) -> bool:
    """Return whether a training step fails for a single sample as BatchNorm does."""
    try:
        try_step(task, model, splits, dtype, 1)
    except Exception as error:  # any other is reported where two samples are tried
        return probe.ALONE in str(error)
    return False
