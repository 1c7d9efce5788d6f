"""A part whose samples are tensors in memory."""

from collections.abc import Iterator
from typing import Any

from torch import Tensor

from runner.data.collate import Batch
from runner.data.part import Indices, bytes_of, divided_by, spaced, without_targets
from runner.util import trees
from runner.util.trees import Tree


class TensorPart:
    """Samples that are tensors in memory.

    Args:
        inputs: a tree of tensors (N, ...).
        targets: a tree of tensors (N, ...); None if the inputs are whole items.
        places: of the samples among the rows of their file, int64 (N,); None if they are not of a table.
    """

    data_set = nearby = None
    collates = streams = False

    def __init__(self, inputs: Tree, targets: Tree | None, places: Tensor | None = None) -> None:
        self.inputs, self.targets, self.places = inputs, targets, places

    @property
    def tensors(self) -> Batch:
        """The inputs and targets."""
        return self.inputs, self.targets

    def __len__(self) -> int:
        return trees.first_axis(self.inputs)

    def take(self, index: Tensor) -> "TensorPart":
        """Copy the samples at these indices."""
        return TensorPart(*self._at(index), None if self.places is None else self.places[index])

    def file_names(self) -> None:
        """Return None."""

    def row_numbers(self) -> list[int] | None:
        """Return the rows of the file."""
        return None if self.places is None else self.places.tolist()

    def sample(self, index: int) -> Batch:
        """Return a view of one sample."""
        return self._at(index)

    def batch(self, indices: Indices) -> Batch:
        """Copy the samples at these indices."""
        return self._at(indices)

    def example(self, count: int) -> Batch:
        """Copy some samples."""
        return self._at(list(spaced(len(self), count)))

    def _at(self, index: Any) -> Batch:
        return trees.at(self.inputs, index), None if self.targets is None else trees.at(self.targets, index)

    def some_inputs(self, count: int) -> Iterator[Tree]:
        """Yield all inputs."""
        yield self.inputs

    def moments(self, scale: float, axis: int) -> tuple[Tensor, Tensor]:
        """Compute mean and standard deviation over all samples."""
        values = divided_by(self.inputs, scale)
        axes = tuple(other for other in range(values.ndim) if other != 1 + axis)
        return values.mean(axes), values.std(axes, correction=0)

    def known_targets(self) -> Tree | None:
        """Return the targets."""
        return self.targets

    def read_targets(self) -> Tree:
        """Return the targets."""
        if self.targets is None:
            raise without_targets()
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
