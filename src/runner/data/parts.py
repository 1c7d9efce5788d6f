"""A part of the data: tensors in memory, or a map-style data set that is read sample by sample.

`part_of` makes one of what a `Source` holds. Nothing else asks which kind it is.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils.data import Dataset, Subset, default_collate

from runner.data.source import Samples
from runner.errors import ConfigError, Problem, TrainingError, describe_error
from runner.util.rng import derive_seed, isolated_rng

Batch = tuple[Tensor, Tensor]

SAMPLED = 64  # samples that stand for the whole data set in its fingerprint, if it has no method `fingerprint`
MEASURED = 1024  # samples that mean and std are computed from
READ_TWICE = 16  # samples that are read twice to detect random ones; more would detect rarer draws


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

    def __len__(self) -> int: ...

    def take(self, index: Tensor) -> "Part":
        """Return the part that has the samples at these indices only."""

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

    def some_inputs(self, count: int) -> Iterator[Tensor]:
        """Yield raw inputs (n, ...): all at once if they are in memory, else about `count`, evenly spaced."""

    def moments(self, scale: float, axis: int) -> tuple[Tensor, Tensor]:
        """Return mean and standard deviation of the inputs divided by `scale`, for each index along an axis.

        Args:
            scale: divides the raw inputs.
            axis: of a sample: its channels or features.
        """

    def known_targets(self) -> Tensor | None:
        """Return all targets; None if samples have to be read for them."""

    def read_targets(self) -> Tensor:
        """Return all targets; samples are read if there is no other way."""

    def hash_into(self, digest: Any) -> None:
        """Update a digest of `hashlib` with the samples, or with some that stand for all."""

    def is_random(self) -> bool:
        """Whether samples differ each time they are read, because the data set augments them, for example.

        Raises:
            ConfigError: a sample cannot be read.
        """


def part_of(samples: Samples, label: str = "the data") -> Part:
    """Return the samples of a `Source` as a part.

    Args:
        samples: what the data set's function returned.
        label: names the part in problems.

    Raises:
        ConfigError: the samples are of neither kind.
    """
    if not isinstance(samples, tuple):
        if not hasattr(samples, "__len__") or not hasattr(samples, "__getitem__"):
            raise _unsuitable(f"{label} is of type {type(samples).__name__}, which has no length or no items")
        return DatasetPart(samples)
    kinds = [type(values).__name__ for values in samples]
    if len(samples) != 2 or not all(isinstance(values, Tensor) and values.ndim for values in samples):
        raise _unsuitable(f"{label} is a tuple of {', '.join(kinds) or 'nothing'}")
    inputs, targets = samples
    if len(inputs) != len(targets):
        raise _unsuitable(f"{label} has {len(inputs)} inputs and {len(targets)} targets")
    return TensorPart(inputs, targets)


def _unsuitable(text: str) -> ConfigError:
    instead = "return two tensors of the same length, (inputs, targets), or a map-style data set"
    return ConfigError(Problem("data", text, instead, topic="code"))


class TensorPart:
    """Samples that are tensors in memory.

    Args:
        inputs: (N, ...).
        targets: (N,) or (N, K).
    """

    data_set = None

    def __init__(self, inputs: Tensor, targets: Tensor) -> None:
        self.inputs, self.targets = inputs, targets

    @property
    def tensors(self) -> Batch:
        """The inputs and targets."""
        return self.inputs, self.targets

    def __len__(self) -> int:
        return len(self.inputs)

    def take(self, index: Tensor) -> "TensorPart":
        """Copy the samples at these indices."""
        return TensorPart(self.inputs[index], self.targets[index])

    def sample(self, index: int) -> Batch:
        """Return a view of one sample."""
        return self.inputs[index], self.targets[index]

    def batch(self, indices: Indices) -> Batch:
        """Copy the samples at these indices."""
        return self.inputs[indices], self.targets[indices]

    def some_inputs(self, count: int) -> Iterator[Tensor]:
        """Yield all inputs."""
        yield self.inputs

    def moments(self, scale: float, axis: int) -> tuple[Tensor, Tensor]:
        """Compute mean and standard deviation over all samples."""
        values = _divided(self.inputs, scale)
        axes = tuple(other for other in range(values.ndim) if other != 1 + axis)
        return values.mean(axes), values.std(axes, correction=0)

    def known_targets(self) -> Tensor:
        """Return the targets."""
        return self.targets

    read_targets = known_targets

    def hash_into(self, digest: Any) -> None:
        """Hash all samples."""
        for tensor in self.tensors:
            digest.update(repr((tensor.dtype, tuple(tensor.shape))).encode())
            digest.update(tensor.contiguous().numpy().data)

    def is_random(self) -> bool:
        """Return False."""
        return False


class DatasetPart:
    """Samples of a map-style data set.

    What the data set draws at random for a sample depends on the batch alone: neither on the number of workers, nor
    on where a run was resumed.

    Args:
        items: has a length and, at each index, a pair of input and target. It may have `__getitems__`, which reads a
            batch, `targets`, which are all targets, and `fingerprint() -> bytes`, a hash of all that it holds.
        index: of the items that belong to the part; None means all of them.
    """

    tensors = None

    def __init__(self, items: Any, index: list[int] | None = None) -> None:
        self._items, self._index = items, index

    @property
    def data_set(self) -> Dataset[Any] | None:
        """The innermost `Dataset`."""
        items = self._items
        while isinstance(items, Subset):
            items = items.dataset
        return items if isinstance(items, Dataset) else None

    def __len__(self) -> int:
        return len(self._items if self._index is None else self._index)

    def take(self, index: Tensor) -> "DatasetPart":
        """Return the part with the samples at these indices; nothing is read."""
        chosen = index.tolist()
        return DatasetPart(self._items, chosen if self._index is None else [self._index[at] for at in chosen])

    def sample(self, index: int) -> Batch:
        """Read one sample."""
        with _before_training():
            item = self._items[index if self._index is None else self._index[index]]
        try:
            inputs, targets = item
        except (TypeError, ValueError) as error:
            text = f"an item of the data set is of type {type(item).__name__}, not a pair"
            raise ConfigError(Problem("data", text, "return (input, target) for each index", topic="code")) from error
        return inputs, targets

    def batch(self, indices: Indices) -> Batch:
        """Read and collate samples."""
        chosen = indices if self._index is None else [self._index[at] for at in indices]
        fetch = getattr(self._items, "__getitems__", None)
        try:
            with isolated_rng(indices.seed):
                inputs, targets = default_collate(fetch(chosen) if fetch else [self._items[at] for at in chosen])
                return inputs, targets
        except OSError as error:  # a file that has been removed, for example
            raise TrainingError(describe_error(error)) from error

    def some_inputs(self, count: int) -> Iterator[Tensor]:
        """Read samples and yield their inputs one by one."""
        for inputs, _ in self._some(count):
            yield torch.as_tensor(inputs).unsqueeze(0)

    def moments(self, scale: float, axis: int) -> tuple[Tensor, Tensor]:
        """Compute mean and standard deviation over about `MEASURED` samples, one in memory at a time."""
        moments = []
        for inputs, _ in self._some(MEASURED):
            values = _divided(torch.as_tensor(inputs), scale)
            values = values.movedim(axis, 0) if values.ndim else values.reshape(1)
            values = values.reshape(len(values), -1)
            moments.append(torch.stack([values.mean(1), values.square().mean(1)]))
        mean, square = torch.stack(moments).mean(0)
        variance = square - mean.square()
        return mean, torch.where(variance > 1e-12 * square, variance, 0.0).sqrt()  # smaller ones are rounding errors

    def known_targets(self) -> Tensor | None:
        """Return the data set's `targets`, if it has them."""
        if not hasattr(self._items, "targets"):
            return None
        targets = torch.as_tensor(self._items.targets)
        return targets if self._index is None else targets[self._index]

    def read_targets(self) -> Tensor:
        """Return the known targets, or read every sample."""
        known = self.known_targets()
        if known is not None:
            return known
        return torch.stack([torch.as_tensor(self.sample(index)[1]) for index in range(len(self))])

    def hash_into(self, digest: Any) -> None:
        """Hash the data set's fingerprint, or its length and about `SAMPLED` samples."""
        if self._index is None and hasattr(self._items, "fingerprint"):
            digest.update(self._items.fingerprint())
            return
        digest.update(repr(len(self)).encode())
        for inputs, target in self._some(SAMPLED):
            digest.update(torch.as_tensor(inputs).contiguous().numpy().data)
            values = torch.as_tensor(target)
            digest.update(repr(float(target)).encode() if values.numel() == 1 else values.contiguous().numpy().data)

    def is_random(self) -> bool:
        """Read some samples twice and compare them."""
        every = max(1, len(self) // READ_TWICE)
        indices = list(range(0, len(self), every))[:READ_TWICE]
        with _before_training():
            first, second = (self.batch(seeded(indices, purpose, 0)) for purpose in ("samples", "samples again"))
        both = zip(first, second, strict=True)
        return not all(torch.allclose(one, other, rtol=0, atol=0, equal_nan=True) for one, other in both)

    def _some(self, count: int) -> Iterator[Batch]:
        """Read about so many samples, evenly spaced."""
        for index in range(0, len(self), max(1, len(self) // count)):
            yield self.sample(index)


@contextmanager
def _before_training() -> Iterator[None]:
    """Turn the error of a sample that cannot be read into one of the config: nothing has been started."""
    try:
        yield
    except TrainingError as error:
        raise ConfigError(Problem("data", str(error), topic="data")) from error


def _divided(inputs: Tensor, scale: float) -> Tensor:
    """Return inputs divided by `scale`, as a float64 copy."""
    return inputs.to(torch.float64, copy=True).div_(scale)
