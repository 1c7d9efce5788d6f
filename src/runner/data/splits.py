"""A data set divided: what its parts are, and what is known of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256

import torch
from torch import Tensor

from runner.data.collate import Batch
from runner.data.normalize import Normalize
from runner.data.part import Part, spaced
from runner.data.source import FittedRows
from runner.data.table_layout import Reading
from runner.data.tensor_part import TensorPart
from runner.errors import ConfigError, Problem
from runner.util import trees
from runner.util.trees import Shapes, Tree

EXAMPLES = 64  # raw training samples that are left when the batches have a copy of all


@dataclass(frozen=True)
class Splits:
    """A data set divided, still raw and on the CPU.

    Attributes:
        name: of the data set.
        origin: where the samples come from: a path, a package.
        classes: the names of the classes 0, 1, ...; None if they have none.
        train: the samples trained on.
        val: the data set's own, or held out of the training part; None with `val_fraction=0`.
        test: the test part; None if the data set has none, or if it is `untouched`.
        normalize: from raw inputs to the model's inputs.
        input_shape: of one sample: whole numbers; of several inputs, a dict or tuple of such shapes.
        fingerprint: hash of contents and split.
        columns: all columns of the table that the samples come from; None without a table.
        target: the column that is predicted; a list of several.
        notes: short phrases about what was guessed from the data.
        white: the number that stands for white in image files with more than 8 bits a pixel.
        all_targets: of all samples, without the limit; None if the data set does not list them, if they are not a
            single tensor, or for a run of 0.1.0.
        untrained: integer targets of the data set's own validation and test parts that its training part lacks.
        val_fraction: the share of the training part that was held out; None if the data set has a validation part.
        reading: how the table was read; None if as runner 0.1.0 did, or without a table.
        features: the names of the numbers of a sample, where there are no `columns`; None if they have none.
        table: the fitted transformers of `data=table`.
        divided_by: what the original pixels were divided by, if anything.
        fold_members: the places of the validation samples in the data set's training part, if they are a fold.
        untouched: the test part of a run that validates on a fold: only the folds together are tested on it.
        raw_test: the test part as it was before the transformers of `data=table`, as a hash; None without these.
        trained_on: the number of training samples if `train` has only examples of them; None if it has all.
    """

    name: str
    origin: str
    classes: Sequence[str] | None
    train: Part
    val: Part | None
    test: Part | None
    normalize: Normalize
    input_shape: Shapes
    fingerprint: str
    columns: Sequence[str] | None = None
    target: str | list[str] | None = None
    notes: Sequence[str] = ()
    white: float | None = None
    all_targets: Tensor | None = None
    untrained: Sequence[int] = ()
    val_fraction: float | None = None
    reading: Reading | None = None
    features: Sequence[str] | None = None
    weights: Tensor | None = None
    table: FittedRows | None = None
    divided_by: float | None = None
    fold_members: Tensor | None = None
    untouched: Part | None = None
    raw_test: str | None = None
    trained_on: int | None = None

    def with_examples(self) -> "Splits":
        """Return the same with a few examples of the training samples, evenly spaced, if these are tensors.

        What has the normalised samples, as batches, does not need the raw ones too: MNIST's take 38 MB, a table's
        as much as those of the batches.
        """
        if not isinstance(self.train, TensorPart):
            return self
        samples = len(self.train)
        few = self.train.take(torch.tensor(spaced(samples, EXAMPLES), dtype=torch.int64))
        return replace(self, train=few, trained_on=samples)

    @property
    def test_digest(self) -> str | None:
        """A hash of the test part alone, as the data set has it; None without one.

        The fingerprint also depends on the training samples and on the division, which differ from seed to seed.
        """
        return None if self.test is None else self.raw_test or digest(self.test)

    @property
    def sizes(self) -> dict[str, int]:
        """The number of samples of `train`, `val` and `test`; 0 for a part that the data set does not have.

        Of a stream, those of a training epoch; 0 also for a part that is evaluated and does not know its length.
        """
        parts = {"train": self.train, "val": self.val, "test": self.test}
        sizes = {name: 0 if part is None else len(part) for name, part in parts.items()}
        return sizes if self.trained_on is None else {**sizes, "train": self.trained_on}

    @property
    def input_values(self) -> int:
        """The number of values in the inputs of one sample."""
        return sum(torch.Size(shape).numel() for shape in _single_shapes(self.input_shape))

    def example(self, count: int) -> Batch:
        """Return a raw batch of at most `count` training samples, as the training gets them."""
        return self.train.example(count)

    def targets(self) -> Tree:
        """Return the targets of all parts.

        Raises:
            ConfigError: items have none.
        """
        read = [part.read_targets() for part in (self.train, self.val, self.test) if part is not None]
        if self.train.streams and self.classes is None and _are_labels(read[0]):
            text = f"data={self.name}: the classes of a stream are not known before its end"
            instead = "return Source(classes=[<their names>]), or float targets if they are numbers"
            raise ConfigError(Problem("data", text, instead, topic="code"))
        if isinstance(read[0], Tensor):
            return torch.cat(read)
        taken_apart = [trees.flatten(targets) for targets in read]
        columns = zip(*(leaves for leaves, _ in taken_apart), strict=True)
        return trees.unflatten([torch.cat(column) for column in columns], taken_apart[0][1])

    def nbytes(self, dtype: torch.dtype) -> int:
        """Return the bytes that all samples need at most when they are held in memory for training.

        A single target is not counted, unless it is more than one number: a mask, for example.

        Args:
            dtype: of normalised inputs; what a map-style data set returns as uint8 is held as uint8.
        """
        inputs, targets = self.train.sample(0)
        leaves = [torch.as_tensor(leaf) for leaf in trees.leaves(inputs)]
        raw = self.train.tensors is None and any(leaf.dtype == torch.uint8 for leaf in leaves)
        dtypes = [leaf.dtype for leaf in leaves] if raw else self.normalize.dtypes(leaves, dtype)
        held = sum(leaf.numel() * kept.itemsize for leaf, kept in zip(leaves, dtypes, strict=True))
        several = [torch.as_tensor(leaf) for leaf in ([] if targets is None else trees.leaves(targets))]
        held += sum(leaf.numel() * leaf.dtype.itemsize for leaf in several if leaf.numel() > 1)
        return sum(self.sizes.values()) * held


def _single_shapes(shapes: Shapes) -> list[tuple[int, ...]]:
    """Return the shapes of single tensors among some in dicts and tuples."""
    if trees.is_shape(shapes):
        return [tuple(shapes)]
    parts = shapes.values() if isinstance(shapes, Mapping) else shapes
    return [shape for part in parts for shape in _single_shapes(part)]


def _are_labels(targets: Tree) -> bool:
    return isinstance(targets, Tensor) and targets.ndim == 1 and not targets.is_floating_point()


def digest(part: Part) -> str:
    """Hash the contents of a part."""
    digest = sha256()
    part.hash_into(digest)
    return digest.hexdigest()[:32]
