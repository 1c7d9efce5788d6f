"""A part of the data: tensors in memory, or a map-style data set that is read sample by sample.

`part_of` makes one of what a `Source` holds. Nothing else asks which kind it is. Inputs and targets are trees (see
`runner.util.trees`); where the task takes whole items, these are the inputs, and there are no targets.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import is_dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils.data import Dataset, Subset

from runner.data.collate import PLAIN, Batch, Divide, collate, divide_pair, to_tensors
from runner.data.source import Samples
from runner.errors import ConfigError, Problem, TrainingError, describe_error
from runner.util import trees
from runner.util.rng import derive_seed, isolated_rng
from runner.util.trees import Tree

__all__ = ["Batch", "DatasetPart", "Divide", "Indices", "Part", "TensorPart", "divide_pair", "part_of", "seeded"]

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

    @property
    def collates(self) -> bool:
        """Whether the data set makes its batches itself: it has a `collate_fn`, which may pad samples."""

    @property
    def streams(self) -> bool:
        """Whether samples come one after another, and have no indices."""

    def __len__(self) -> int: ...

    def take(self, index: Tensor) -> "Part":
        """Return the part that has the samples at these indices only."""

    def file_names(self) -> Sequence[str] | None:
        """Return the names of the files that the samples were read from; None if they have none."""

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


def part_of(
    samples: Samples,
    label: str = "the data",
    divide: Divide = divide_pair,
    collate_fn: Callable[[list[Any]], Tree] | None = None,
) -> Part:
    """Return the samples of a `Source` as a part.

    Args:
        samples: what the data set's function returned.
        label: names the part in problems.
        divide: divides tensors, or each sample and batch of a data set, into inputs and targets: the task's.
        collate_fn: makes a batch of a list of items; None takes the data set's own, or stacks them.

    Raises:
        ConfigError: the samples are of neither kind.
    """
    if not _is_tree(samples):
        if not hasattr(samples, "__len__") or not hasattr(samples, "__getitem__"):
            raise _unsuitable(f"{label} is of type {type(samples).__name__}, which has no length or no items")
        return DatasetPart(samples, divide=divide, collate_fn=collate_fn)
    pair = type(samples) is tuple and len(samples) == 2 and all(isinstance(part, Tensor) for part in samples)
    try:
        trees.first_axis(dict(zip(("inputs", "targets"), samples, strict=True)) if pair else samples)
    except trees.UnevenTree as error:
        raise _unsuitable(f"{label}: {error}") from error
    return TensorPart(*divide(samples))


def _is_tree(samples: Any) -> bool:
    """Whether samples are tensors rather than a data set; a list is a data set, of its elements."""
    if isinstance(samples, Tensor | tuple | Mapping):
        return True
    return is_dataclass(samples) and not isinstance(samples, Dataset) and not hasattr(samples, "__getitem__")


def _unsuitable(text: str) -> ConfigError:
    instead = (
        "return tensors of the same length, such as (inputs, targets) or a dict of tensors, or a map-style data set"
    )
    return ConfigError(Problem("data", text, instead, topic="code"))


def _without_targets() -> ConfigError:
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


class TensorPart:
    """Samples that are tensors in memory.

    Args:
        inputs: a tree of tensors (N, ...).
        targets: a tree of tensors (N, ...); None if the inputs are whole items.
    """

    data_set = None
    collates = streams = False

    def __init__(self, inputs: Tree, targets: Tree | None) -> None:
        self.inputs, self.targets = inputs, targets

    @property
    def tensors(self) -> Batch:
        """The inputs and targets."""
        return self.inputs, self.targets

    def __len__(self) -> int:
        return trees.first_axis(self.inputs)

    def take(self, index: Tensor) -> "TensorPart":
        """Copy the samples at these indices."""
        return TensorPart(*self._at(index))

    def file_names(self) -> None:
        """Return None."""

    def sample(self, index: int) -> Batch:
        """Return a view of one sample."""
        return self._at(index)

    def batch(self, indices: Indices) -> Batch:
        """Copy the samples at these indices."""
        return self._at(indices)

    def example(self, count: int) -> Batch:
        """Copy some samples."""
        return self._at(list(_spaced(len(self), count)))

    def _at(self, index: Any) -> Batch:
        return trees.at(self.inputs, index), None if self.targets is None else trees.at(self.targets, index)

    def some_inputs(self, count: int) -> Iterator[Tree]:
        """Yield all inputs."""
        yield self.inputs

    def moments(self, scale: float, axis: int) -> tuple[Tensor, Tensor]:
        """Compute mean and standard deviation over all samples."""
        values = _divided(self.inputs, scale)
        axes = tuple(other for other in range(values.ndim) if other != 1 + axis)
        return values.mean(axes), values.std(axes, correction=0)

    def known_targets(self) -> Tree | None:
        """Return the targets."""
        return self.targets

    def read_targets(self) -> Tree:
        """Return the targets."""
        if self.targets is None:
            raise _without_targets()
        return self.targets

    def hash_into(self, digest: Any) -> None:
        """Hash all samples."""
        for tree in self.tensors:
            for name, tensor in [] if tree is None else trees.named_leaves(tree):
                digest.update(name.encode() + repr((tensor.dtype, tuple(tensor.shape))).encode())
                digest.update(bytes_of(tensor))

    def is_random(self) -> bool:
        """Return False."""
        return False

    varies = is_random


class DatasetPart:
    """Samples of a map-style data set.

    What the data set draws at random for a sample depends on the batch alone: neither on the number of workers, nor
    on where a run was resumed.

    Args:
        items: has a length and, at each index, a pair of input and target. It may have `__getitems__`, which reads a
            batch, `collate_fn`, which makes a batch of a list of items, `targets`, which are all targets, and
            `fingerprint() -> bytes`, a hash of all that it holds.
        index: of the items that belong to the part; None means all of them.
        divide: divides an item, or a batch, into inputs and targets.
        collate_fn: makes a batch of a list of items; None takes the data set's own, or stacks them.
    """

    tensors = None
    streams = False

    def __init__(
        self,
        items: Any,
        index: list[int] | None = None,
        divide: Divide = divide_pair,
        collate_fn: Callable[[list[Any]], Tree] | None = None,
    ) -> None:
        self._items, self._index, self._divide = items, index, divide
        for holder in (items, self.data_set):
            collate_fn = collate_fn or getattr(holder, "collate_fn", None)
        self._collate_fn = collate_fn

    @property
    def data_set(self) -> Dataset[Any] | None:
        """The innermost `Dataset`."""
        items = self._items
        while isinstance(items, Subset):
            items = items.dataset
        return items if isinstance(items, Dataset) else None

    @property
    def collates(self) -> bool:
        """Whether there is a `collate_fn`."""
        return self._collate_fn is not None

    def __len__(self) -> int:
        return len(self._items if self._index is None else self._index)

    def take(self, index: Tensor) -> "DatasetPart":
        """Return the part with the samples at these indices; nothing is read."""
        chosen = index.tolist()
        index_of_items = chosen if self._index is None else [self._index[at] for at in chosen]
        return DatasetPart(self._items, index_of_items, self._divide, self._collate_fn)

    def file_names(self) -> Sequence[str] | None:
        """Return the data set's `names`, if there is one for each of its items."""
        names = getattr(self._items, "names", None)
        if not isinstance(names, list | tuple) or not hasattr(self._items, "__len__") or len(names) != len(self._items):
            return None
        return names if self._index is None else [names[at] for at in self._index]

    def sample(self, index: int) -> Batch:
        """Read one sample: as the data set has it, or, with a `collate_fn`, as that makes a batch of it alone."""
        with before_training():
            if self._collate_fn is not None:
                inputs, targets = check_axis(self.batch(seeded([index], "samples", 0)))
                return trees.at(inputs, 0), None if targets is None else trees.at(targets, 0)
            item = self._items[index if self._index is None else self._index[index]]
            inputs, targets = self._divide(item)
            return to_tensors(inputs), to_tensors(targets)

    def batch(self, indices: Indices) -> Batch:
        """Read and collate samples."""
        chosen = indices if self._index is None else [self._index[at] for at in indices]
        fetch = getattr(self._items, "__getitems__", None)
        try:
            with isolated_rng(indices.seed):
                samples = fetch(chosen) if fetch else [self._items[at] for at in chosen]
                return self._divide((self._collate_fn or collate)(samples))
        except OSError as error:  # a file that has been removed, for example
            raise TrainingError(describe_error(error)) from error

    def example(self, count: int) -> Batch:
        """Read and collate some samples."""
        with before_training():
            return check_axis(self.batch(seeded(_spaced(len(self), count), "samples", 0)))

    def some_inputs(self, count: int) -> Iterator[Tree]:
        """Read samples and yield their inputs one by one."""
        for inputs, _ in self._some(count):
            yield trees.tree_map(lambda leaf: torch.as_tensor(leaf).unsqueeze(0), inputs)

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
        targets: Tensor = torch.as_tensor(self._items.targets)
        return targets if self._index is None else targets[self._index]

    def read_targets(self) -> Tree:
        """Return the known targets, or read every sample; targets of several lengths are returned one after another."""
        known = self.known_targets()
        if known is not None:
            return known
        read = [targets for _, targets in self._all()]
        if any(targets is None for targets in read):
            raise _without_targets()
        if all(isinstance(targets, PLAIN) for targets in read):
            return _join([torch.as_tensor(targets) for targets in read])
        taken_apart = [trees.flatten(targets) for targets in read]
        columns = zip(*(leaves for leaves, _ in taken_apart), strict=True)
        return trees.unflatten([_join([torch.as_tensor(leaf) for leaf in one]) for one in columns], taken_apart[0][1])

    def hash_into(self, digest: Any) -> None:
        """Hash the data set's fingerprint, or its length and about `SAMPLED` samples."""
        if self._index is None and hasattr(self._items, "fingerprint"):
            digest.update(self._items.fingerprint())
            return
        digest.update(repr(len(self)).encode())
        for inputs, target in self._some(SAMPLED):
            for leaf in trees.leaves(inputs):
                digest.update(bytes_of(leaf))
            for leaf in [] if target is None else trees.leaves(target):
                values = torch.as_tensor(leaf)
                digest.update(repr(float(leaf)).encode() if values.numel() == 1 else bytes_of(values))

    def is_random(self) -> bool:
        """Read some samples twice and compare them."""
        indices = _spaced(len(self), READ_TWICE)
        with before_training():
            first, second = (self.batch(seeded(indices, purpose, 0)) for purpose in ("samples", "samples again"))
        both = zip(trees.leaves(first), trees.leaves(second), strict=True)
        return not all(equal(one, other) for one, other in both)

    def varies(self) -> bool:
        """Read some samples and compare their shapes, which only a `collate_fn` allows to differ."""
        if self._collate_fn is None:
            return False
        read = [trees.shapes(self.sample(index)) for index in _spaced(len(self), READ_TWICE)]
        return any(shapes != read[0] for shapes in read)

    def _all(self) -> Iterator[Batch]:
        """Read every sample."""
        return (self.sample(index) for index in range(len(self)))

    def _some(self, count: int) -> Iterator[Batch]:
        """Read about so many samples, evenly spaced."""
        for index in range(0, len(self), max(1, len(self) // count)):
            yield self.sample(index)


def _spaced(samples: int, count: int) -> list[int]:
    """Return at most `count` indices, evenly spaced."""
    return list(range(0, samples, max(1, samples // count)))[:count]


def _join(targets: list[Tensor]) -> Tensor:
    """Stack the targets of samples; those of several shapes, such as labels of sequences, follow one another."""
    if len({values.shape for values in targets}) > 1:
        return torch.cat([values.flatten() for values in targets])
    return torch.stack(targets)


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


def _divided(inputs: Tensor, scale: float) -> Tensor:
    """Return inputs divided by `scale`, as a float64 copy."""
    return inputs.to(torch.float64, copy=True).div_(scale)
