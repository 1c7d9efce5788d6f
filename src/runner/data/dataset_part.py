"""A part whose samples are read from a map-style data set, one by one or batch by batch."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset, Subset

from runner.data.collate import PLAIN, Batch, Divide, collate, divide_pair, to_tensors
from runner.data.part import (
    Indices,
    before_training,
    bytes_of,
    check_axis,
    divided_by,
    equal,
    seeded,
    spaced,
    without_targets,
)
from runner.data.sampling import Nearby
from runner.errors import TrainingError, describe_error
from runner.util import trees
from runner.util.rng import isolated_rng
from runner.util.trees import Tree

SAMPLED = 64  # samples that stand for the whole data set in its fingerprint, if it has no method `fingerprint`
MEASURED = 1024  # samples that mean and std are computed from
READ_TWICE = 16  # samples that are read twice to detect random ones; more would detect rarer draws


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
    def nearby(self) -> Nearby | None:
        """Which samples are read together, if the data set says so by its attribute `nearby`."""
        known = getattr(self._items, "nearby", None)
        if not isinstance(known, Nearby):
            return None
        return known if self._index is None else known.take(self._index)

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

    def row_numbers(self) -> None:
        """Return None."""

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
            return check_axis(self.batch(seeded(spaced(len(self), count), "samples", 0)))

    def some_inputs(self, count: int) -> Iterator[Tree]:
        """Read samples and yield their inputs one by one."""
        for inputs, _ in self._some(count):
            yield trees.tree_map(lambda leaf: torch.as_tensor(leaf).unsqueeze(0), inputs)

    def moments(self, scale: float, axis: int) -> tuple[Tensor, Tensor]:
        """Compute mean and standard deviation over about `MEASURED` samples, one in memory at a time."""
        moments = []
        for inputs, _ in self._some(MEASURED):
            values = divided_by(torch.as_tensor(inputs), scale)
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
            raise without_targets()
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
        indices = spaced(len(self), READ_TWICE)
        with before_training():
            first, second = (self.batch(seeded(indices, purpose, 0)) for purpose in ("samples", "samples again"))
        both = zip(trees.leaves(first), trees.leaves(second), strict=True)
        return not all(equal(one, other) for one, other in both)

    def varies(self) -> bool:
        """Read some samples and compare their shapes, which only a `collate_fn` allows to differ."""
        if self._collate_fn is None:
            return False
        read = [trees.shapes(self.sample(index)) for index in spaced(len(self), READ_TWICE)]
        return any(shapes != read[0] for shapes in read)

    def _all(self) -> Iterator[Batch]:
        """Read every sample."""
        return (self.sample(index) for index in range(len(self)))

    def _some(self, count: int) -> Iterator[Batch]:
        """Read about so many samples, evenly spaced."""
        for index in range(0, len(self), max(1, len(self) // count)):
            yield self.sample(index)


def _join(targets: list[Tensor]) -> Tensor:
    """Stack the targets of samples; those of several shapes, such as labels of sequences, follow one another."""
    if len({values.shape for values in targets}) > 1:
        return torch.cat([values.flatten() for values in targets])
    return torch.stack(targets)
