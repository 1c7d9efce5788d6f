"""Batches: from memory or through workers, the same ones in the same order.

The order of an epoch is a function of (seed, epoch) alone, and augmentation of (seed, epoch, batch). A resumed run,
another number of workers or a skipped validation cannot change the samples that a step is trained on.
"""

from collections.abc import Callable, Iterator
from copy import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from runner.data.augment import Augment
from runner.data.collate import Batch
from runner.data.part import Part, seeded
from runner.data.preprocess import Preprocess
from runner.data.sampling import Nearby, epoch_order
from runner.data.share import WHOLE, Padding, Share
from runner.data.split_checks import LABELS
from runner.data.splits import Splits
from runner.data.stream_part import StreamPart
from runner.data.stream_shares import check_shares
from runner.data.streaming import StreamLoader
from runner.data.workers import BatchReader, read_all
from runner.util import trees
from runner.util.rng import make_generator
from runner.util.trees import Tree


class TensorLoader:
    """Batches of tensors on the device.

    Args:
        inputs: a tree of tensors on the device; (N, ...), images as (N, H, W, C) if `channels_last`.
        targets: prepared by the loss, on the device; None if inputs are whole items.
        batch_size: samples in a batch; the last batch of an epoch may have fewer.
        seed: shuffles each epoch; None keeps the order.
        channels_last: images (N, C, H, W) of a batch are in channels_last memory format.
        normalize: applied to the inputs of each batch; None if they are normalised already.
        augment: applied to each normalised batch of a shuffled epoch.
        weights: by which the samples of a shuffled epoch are drawn with replacement; None: each is in it once.
        share: of each batch, if several ranks train one model.
        nearby: which samples an epoch has near one another; None: any order.
    """

    num_workers = 0
    data_set = None

    def __init__(
        self,
        inputs: Tree,
        targets: Tree | None,
        batch_size: int,
        seed: int | None,
        channels_last: bool = False,
        normalize: Callable[[Tree], Tree] | None = None,
        augment: Augment | None = None,
        weights: Tensor | None = None,
        share: Share = WHOLE,
        nearby: Nearby | None = None,
    ) -> None:
        self.inputs, self.targets, self.share = inputs, targets, share
        self.batch_size, self.seed, self.channels_last = batch_size, seed, channels_last
        self.normalize, self.augment, self.weights = normalize, augment, weights
        self.nearby = nearby
        self.samples = trees.first_axis(inputs)
        self._device = trees.leaves(inputs)[0].device
        self._selectors = _selector(inputs, channels_last), _selector(targets)

    def __len__(self) -> int:
        return -(-self.samples // self.batch_size)

    def close(self) -> None:
        """Free the samples."""
        self.inputs = self.targets = torch.empty(0)
        self._selectors = _selector(self.inputs), _selector(self.targets)

    def in_order(self, batch_size: int) -> "TensorLoader":
        """Return a loader of the same samples, neither shuffled nor augmented."""
        return TensorLoader(self.inputs, self.targets, batch_size, None, self.channels_last, self.normalize)

    def without_workers(self) -> "TensorLoader":
        """Return this loader, which has no workers."""
        return self

    def order(self, epoch: int) -> Tensor:
        """Return the indices (N,) of the samples of a shuffled epoch, on the device."""
        assert self.seed is not None
        return epoch_order(self.samples, self.seed, epoch, self.weights, self.nearby).to(self._device)

    def select(self, index: Tensor | slice) -> Batch:
        """Return the inputs and targets of these samples, normalised but not augmented."""
        select_inputs, select_targets = self._selectors
        inputs = select_inputs(index)
        return inputs if self.normalize is None else self.normalize(inputs), select_targets(index)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Yield the batches of an epoch from index `start` (from 0)."""
        size, augment, seed = self.batch_size, self.augment, self.seed
        order = None if seed is None else self.order(epoch)
        if self.share.ranks > 1:
            yield from self._shares(epoch, start, order)
            return
        for number, first in enumerate(range(start * size, self.samples, size), start):
            # Permuting the whole epoch at once takes 1.06 times as long (MNIST MLP), and a second copy of it.
            index: Tensor | slice = slice(first, first + size)
            if order is not None:  # the only batch of an epoch is not sliced
                index = order if size >= self.samples else order[index]
            inputs, targets = self.select(index)
            if augment is not None and seed is not None:
                inputs, targets = augment(inputs, targets, make_generator("augment", seed, epoch, number))
            yield inputs, targets

    def _shares(self, epoch: int, start: int, order: Tensor | None) -> Iterator[Batch]:
        """Yield this rank's shares of the batches."""
        for number, first in enumerate(range(start * self.batch_size, self.samples, self.batch_size), start):
            begin, end = self.share.of(first, min(first + self.batch_size, self.samples))
            index: Tensor | slice = slice(begin, end) if begin < end else slice(first, first + 1)
            inputs, targets = self.select(index if order is None else order[index])
            if self.augment is not None and self.seed is not None:
                generator = make_generator("augment", self.seed, epoch, number, *self.share.key)
                inputs, targets = self.augment(inputs, targets, generator)
            yield (inputs, targets) if begin < end else Padding((inputs, targets))


def _selector(tree: Tree | None, channels_last: bool = False) -> Callable[[Tensor | slice], Tree]:
    """Return a function from indices to the samples of a tree, which is taken apart only once.

    Args:
        tree: of tensors (N, ...).
        channels_last: a tensor (N, H, W, C) is returned as images (N, C, H, W), which costs nothing.
    """
    if tree is None:
        return lambda index: None
    if isinstance(tree, Tensor):
        permuted = channels_last and tree.ndim == 4
        if not permuted:
            return lambda index: tree[index] if isinstance(index, slice) else tree.index_select(0, index)

        def select(index: Tensor | slice) -> Tensor:
            chosen = tree[index] if isinstance(index, slice) else tree.index_select(0, index)
            return chosen.permute(0, 3, 1, 2)

        return select
    leaves, structure = trees.flatten(tree)
    selectors = [_selector(leaf, channels_last) for leaf in leaves]
    return lambda index: trees.unflatten([select(index) for select in selectors], structure)


class WorkerLoader:
    """The same batches through a `DataLoader`, for data that does not fit into memory.

    Args:
        part: raw samples.
        preprocess: (raw inputs, raw targets) of a batch -> both as the training loop takes them, on the device.
        batch_size: samples in a batch; the last batch of an epoch may have fewer.
        seed: shuffles each epoch; None keeps the order.
        num_workers: processes that load; they live as long as the loader. 0 means this process.
        pin_memory: copy batches to page-locked memory, from which a GPU reads faster.
        augment: applied to each preprocessed batch of a shuffled epoch.
        weights: see `TensorLoader`.
        share: see `TensorLoader`.
        nearby: see `TensorLoader`.
    """

    def __init__(
        self,
        part: Part,
        preprocess: Callable[[Tree, Tree | None], Batch],
        batch_size: int,
        seed: int | None,
        num_workers: int = 0,
        pin_memory: bool = False,
        augment: Augment | None = None,
        weights: Tensor | None = None,
        share: Share = WHOLE,
        nearby: Nearby | None = None,
    ) -> None:
        self.part, self.preprocess, self.augment, self.weights = part, preprocess, augment, weights
        self.share, self.nearby = share, nearby
        self.batch_size, self.seed, self.num_workers = batch_size, seed, num_workers
        self.samples = len(part)
        self._pin_memory = pin_memory
        rng = make_generator("workers", seed or 0)
        self._reader = BatchReader(part, num_workers, rng, persistent=True, pin_memory=pin_memory)

    def __len__(self) -> int:
        return -(-self.samples // self.batch_size)

    @property
    def data_set(self) -> Dataset[Any] | None:
        """The user's data set that samples are read from."""
        return self.part.data_set

    def close(self) -> None:
        """End the workers."""
        self._reader.close()

    def in_order(self, batch_size: int) -> "WorkerLoader":
        """Return a loader of the same samples, neither shuffled nor augmented."""
        return WorkerLoader(self.part, self.preprocess, batch_size, None, self.num_workers, self._pin_memory)

    def without_workers(self) -> "WorkerLoader":
        """Return a loader of the same batches that this process loads."""
        return WorkerLoader(
            self.part,
            self.preprocess,
            self.batch_size,
            self.seed,
            augment=self.augment,
            weights=self.weights,
            share=self.share,
            nearby=self.nearby,
        )

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Yield the batches of an epoch from index `start` (from 0).

        Raises:
            TrainingError: a sample cannot be read.
        """
        order = torch.arange(self.samples)
        if self.seed is not None:
            order = epoch_order(self.samples, self.seed, epoch, self.weights, self.nearby)
        of_batch = (self.seed or 0, epoch if self.seed is not None else 0)
        shares = [index[slice(*self.share.of(0, len(index)))] for index in order.split(self.batch_size)]
        batches = [
            seeded((own if len(own) else order[:1]).tolist(), "samples", *of_batch, number, *self.share.key)
            for number, own in enumerate(shares[start:], start)
        ]
        for number, batch in enumerate(self._reader.read(batches), start):
            inputs, targets = self.preprocess(*batch)
            if self.augment is not None and self.seed is not None:
                generator = make_generator("augment", self.seed, epoch, number, *self.share.key)
                inputs, targets = self.augment(inputs, targets, generator)
            yield (inputs, targets) if len(shares[number]) else Padding((inputs, targets))


Loader = TensorLoader | WorkerLoader | StreamLoader


@dataclass(frozen=True)
class Loaders:
    """The batches of each part; `val` and `test` are None if the data set has no such part.

    Attributes:
        evaluation_batch_size: of `val` and `test`.
    """

    train: Loader
    val: Loader | None
    test: Loader | None
    evaluation_batch_size: int

    def data_sets(self) -> dict[str, Dataset[Any]]:
        """Return the data sets that are still read, each under the first part that is read from it; no tensors."""
        data_sets: dict[str, Dataset[Any]] = {}
        for name, loader in (("train", self.train), ("val", self.val), ("test", self.test)):
            data_set = loader.data_set if loader is not None else None
            if data_set is not None and not any(data_set is other for other in data_sets.values()):
                data_sets[name] = data_set
        return data_sets

    @property
    def workers(self) -> int:
        """The number of processes that load the training part; 0 if the training process does."""
        return self.train.num_workers

    def copied(self) -> "Loaders":
        """Return the same batches, which can be closed without these."""
        return Loaders(copy(self.train), copy(self.val), copy(self.test), self.evaluation_batch_size)

    def without_workers(self) -> "Loaders":
        """Return the same batches, loaded by the process that asks for them."""
        val, test = (part.without_workers() if part is not None else None for part in (self.val, self.test))
        return Loaders(self.train.without_workers(), val, test, self.evaluation_batch_size)

    def close(self) -> None:
        """Free the samples and end the workers."""
        for loader in (self.train, self.val, self.test):
            if loader is not None:
                loader.close()


def make_loaders(
    splits: Splits,
    preprocess: Preprocess,
    *,
    batch_size: int,
    seed: int,
    in_memory: bool,
    num_workers: int = 0,
    augment: Augment | None = None,
    values: int = 0,
    larger_batches: bool = True,
    share: Share = WHOLE,
) -> Loaders:
    """Make the batches of all parts; the training part is shuffled each epoch.

    Args:
        splits: raw parts.
        preprocess: makes a raw batch ready for the model.
        batch_size: of the training batches.
        seed: of the order.
        in_memory: hold all samples as tensors on the device.
        num_workers: processes that load.
        augment: of the training batches only.
        values: of one sample, in the largest tensor that a layer of the model returns.
        larger_batches: evaluation uses larger batches than training.
        share: of each batch, if several ranks train one model.

    Raises:
        ConfigError: a sample that should be held in memory cannot be read, or several workers would read the same
            samples of a stream.
    """
    device = preprocess.device
    evaluated_at_once = batch_size
    if larger_batches:
        evaluated_at_once = evaluation_batch_size(batch_size, max(values, splits.input_values), device)
    if augment is not None:
        augment = augment.to(device, preprocess.dtype)

    for name, part in (("train", splits.train), ("val", splits.val), ("test", splits.test)):
        if isinstance(part, StreamPart):
            check_shares(part, batch_size, num_workers, f"the {LABELS[name]} part")
    data_seed = seed

    def make(part: Part, samples: int, seed: int | None, augment: Augment | None, once: bool = False) -> Loader:
        if isinstance(part, StreamPart):
            pinned, trains = device.type == "cuda", part is splits.train
            return StreamLoader(part, preprocess, samples, data_seed, trains, num_workers, pinned, augment, share)
        weights = splits.weights if part is splits.train else None
        nearby = part.nearby if part is splits.train else None
        if not in_memory:
            if not once and (prepare := getattr(part.data_set, "prepare_epochs", None)):
                prepare()
            pinned = device.type == "cuda"
            return WorkerLoader(part, preprocess, samples, seed, num_workers, pinned, augment, weights, share, nearby)
        inputs, targets, normalize = _hold(part, preprocess, num_workers, once)
        channels_last = preprocess.channels_last
        if channels_last:
            inputs = trees.tree_map(_channels_to_the_end, inputs)
        return TensorLoader(inputs, targets, samples, seed, channels_last, normalize, augment, weights, share, nearby)

    train = make(splits.train, batch_size, seed, augment)
    val = None if splits.val is None else make(splits.val, evaluated_at_once, None, None)
    test = None if splits.test is None else make(splits.test, evaluated_at_once, None, None, once=True)
    return Loaders(train, val, test, evaluated_at_once)


def _hold(
    part: Part, preprocess: Preprocess, num_workers: int, once: bool
) -> tuple[Tree, Tree | None, Callable[[Tree], Tree] | None]:
    """Bring a part to the device, normalised or, if that takes less memory, raw.

    uint8 samples that a data set reads stay uint8 and are normalised batch by batch: photographs would take four times
    the memory. Tensors are normalised once, for which MNIST takes 188 MB instead of 47: batch by batch it takes 43 us
    for 64 images, 3 to 5 % of the MLP's step. A part that is used once, the test part, stays raw too.

    Returns:
        Inputs, prepared targets, and what still normalises the inputs of a batch.
    """
    inputs, targets = read_all(part, num_workers)
    bytes_among = any(leaf.dtype == torch.uint8 for leaf in trees.leaves(inputs))
    if bytes_among and (once or part.tensors is None):
        on_device = trees.tree_map(lambda leaf: leaf.to(preprocess.device), inputs)
        return on_device, preprocess.targets(targets), preprocess.inputs
    return *preprocess(inputs, targets), None


def _channels_to_the_end(images: Tensor) -> Tensor:
    return images.permute(0, 2, 3, 1).contiguous() if images.ndim == 4 else images


def evaluation_batch_size(batch_size: int, values: int, device: torch.device) -> int:
    """Return a batch size larger than in training, as no activations are kept: up to 4,096 samples that fit.

    Two cores of a CPU, loss and accuracy included; torch uses both cores from 3,277 samples of ten classes: 12,000
    samples take the MLP 28.0 ms by 1,024, 27.5 by 2,048, 26.8 by 4,096 and 27.8 by 8,192; 4,000 take the CNN, whose
    layers return 25,088 values, 603 ms by 64, 614 by 83, 582 by 128 and 587 by 167.

    Args:
        batch_size: of training.
        values: of one sample, in the largest tensor of the forward pass.
        device: where it is computed. For a CPU, which gains nothing from more, 16 MB for a tensor are enough; a GPU
            should be kept busy (128 MB; not measured).
    """
    fitting = 2 ** (22 if device.type == "cpu" else 25) // max(1, values)
    return max(batch_size, min(4096, fitting))
