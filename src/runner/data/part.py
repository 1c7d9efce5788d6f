"""What a part of the data is, and what its kinds share.

Inputs and targets are trees (see `runner.util.trees`). Where the task takes whole items, these are the inputs, and
there are no targets.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils.data import Dataset

from runner.data.collate import Batch
from runner.data.sampling import Nearby
from runner.errors import ConfigError, Problem, TrainingError
from runner.util import trees
from runner.util.rng import derive_seed
from runner.util.trees import Tree


class Indices(list[int]):
    """The indices of the samples of a batch.

    Attributes:
        seed: of all that is drawn at random for these samples.
    """

    seed = 0


def seeded(indices: Sequence[int], purpose: str, *numbers: int) -> Indices:
    """Return the indices with a seed that depends on the purpose and the numbers, such as (seed, epoch, batch)."""
    batch = Indices(indices)
    batch.seed = derive_seed(purpose, *numbers)
    return batch


class Part(Protocol):
    """The training, the validation or the test part of a data set."""

    @property
    def tensors(self) -> Batch | None:
        """All inputs and targets, raw, if they are in memory already; None if samples have to be read."""

    @property
    def data_set(self) -> Dataset[Any] | None:
        """The user's `Dataset` that samples are read from, without a `Subset` around it; None if there is none."""

    @property
    def collates(self) -> bool:
        """Whether the data set makes its batches itself: it has a `collate_fn`, which may pad samples."""

    @property
    def streams(self) -> bool:
        """Whether samples come one after another, and have no indices."""

    @property
    def nearby(self) -> Nearby | None:
        """Which samples are read together; None: any order is as fast."""

    def __len__(self) -> int: ...

    def take(self, index: Tensor) -> "Part":
        """Return the part that has the samples at these indices only."""

    def file_names(self) -> Sequence[str] | None:
        """Return the names of the files that the samples were read from; None if they have none."""

    def row_numbers(self) -> Sequence[int] | None:
        """Return the place of each sample among the rows of its file, from 0; None if they are not of a table."""

    def sample(self, index: int) -> Batch:
        """Return one raw sample.

        Raises:
            ConfigError: it cannot be read.
        """

    def batch(self, indices: Indices) -> Batch:
        """Return raw inputs (n, ...) and targets (n, ...).

        Raises:
            TrainingError: a sample cannot be read.
        """

    def example(self, count: int) -> Batch:
        """Return a batch of at most `count` samples, evenly spaced.

        Raises:
            ConfigError: a sample cannot be read, or they do not make a batch.
        """

    def some_inputs(self, count: int) -> Iterator[Tree]:
        """Yield raw inputs (n, ...): all at once if they are in memory, else about `count`, evenly spaced."""

    def moments(self, scale: float, axis: int) -> tuple[Tensor, Tensor]:
        """Return mean and standard deviation of the inputs divided by `scale`, for each index along an axis.

        Args:
            scale: divides the raw inputs.
            axis: of a sample: its channels or features.
        """

    def known_targets(self) -> Tree | None:
        """Return all targets; None if samples have to be read for them, or have none."""

    def read_targets(self) -> Tree:
        """Return all targets; samples are read if there is no other way.

        Raises:
            ConfigError: items have no targets.
        """

    def hash_into(self, digest: Any) -> None:
        """Update a digest of `hashlib` with the samples, or with some that stand for all."""

    def is_random(self) -> bool:
        """Whether samples differ each time they are read, because the data set augments them, for example.

        Raises:
            ConfigError: a sample cannot be read.
        """

    def varies(self) -> bool:
        """Whether samples differ in shape, among some that are read.

        Raises:
            ConfigError: a sample cannot be read.
        """


def without_targets() -> ConfigError:
    """Return the error of items that have no targets where the task needs them."""
    instead = "return (input, target) for each index, or choose a task that takes whole items"
    return ConfigError(Problem("data", "the items of the data set have no targets", instead, topic="code"))


def check_axis(batch: Batch) -> Batch:
    """Check that all tensors of a batch have the same first axis.

    Raises:
        ConfigError: they have not.
    """
    inputs, targets = batch
    try:
        trees.first_axis(inputs if targets is None else {"inputs": inputs, "targets": targets})
    except trees.UnevenTree as error:
        text, instead = f"a batch has no common first axis: {error}", "return tensors (N, ...) for N samples"
        raise ConfigError(Problem("data", text, instead, topic="shape")) from error
    return batch


def spaced(samples: int, count: int) -> list[int]:
    """Return at most `count` indices, evenly spaced."""
    return list(range(0, samples, max(1, samples // count)))[:count]


def equal(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors have the same shape and values, or no number in the same places."""
    if one.shape != other.shape:
        return False
    return torch.allclose(one, other, rtol=0, atol=0, equal_nan=True) if one.dtype != torch.bool else one.equal(other)


def bytes_of(values: Any) -> memoryview:
    """Return the bytes of a tensor of any type: NumPy has no bfloat16."""
    tensor = torch.as_tensor(values).detach().contiguous()
    return tensor.reshape(-1).view(torch.uint8).numpy().data


@contextmanager
def before_training() -> Iterator[None]:
    """Turn the error of a sample that cannot be read into one of the config: nothing has been started."""
    try:
        yield
    except TrainingError as error:
        raise ConfigError(Problem("data", str(error), topic="data")) from error


def divided_by(inputs: Tensor, scale: float) -> Tensor:
    """Return inputs divided by `scale`, as a float64 copy."""
    return inputs.to(torch.float64, copy=True).div_(scale)
