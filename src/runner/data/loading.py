"""Batches: in memory or through workers, the same ones in the same order.

The order of an epoch is a function of (seed, epoch) alone, so that a resumed run, another number of
workers or a skipped validation cannot change what is trained on.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

from .source import Part
from .splits import Batch, Splits, generator, size

MEMORY_SHARE = 0.5  # of the free memory: what data may take before `in_memory=auto` leaves it where it is


class TensorLoader:
    """Batches of tensors that lie on the device.

    Args:
        inputs: normalised, on the device; (N, ...), images as (N, H, W, C) if `channels_last`.
        targets: prepared by the loss, on the device.
        batch_size: samples a batch; the last of an epoch may have fewer.
        seed: shuffles each epoch; None keeps the order.
        channels_last: batches are images (N, C, H, W) in channels_last storage.
    """

    def __init__(
        self, inputs: Tensor, targets: Tensor, batch_size: int, seed: int | None, channels_last: bool = False
    ) -> None:
        self.inputs, self.targets = inputs, targets
        self.batch_size, self.seed, self.channels_last = batch_size, seed, channels_last
        self.samples = len(inputs)

    def __len__(self) -> int:
        return -(-self.samples // self.batch_size)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The batches of an epoch, from the `start`-th (from 0) on."""
        inputs, targets, size = self.inputs, self.targets, self.batch_size
        order = None if self.seed is None else epoch_order(self.samples, self.seed, epoch).to(inputs.device)
        for first in range(start * size, self.samples, size):
            if order is None:
                batch, wanted = inputs[first : first + size], targets[first : first + size]
            else:
                index = order[first : first + size]
                # Gathering batch by batch costs as much as permuting the whole epoch, and no second copy of it.
                batch, wanted = inputs.index_select(0, index), targets.index_select(0, index)
            # Images are kept as (N, H, W, C): permuted, that is channels_last storage for free.
            yield (batch.permute(0, 3, 1, 2) if self.channels_last else batch), wanted


class WorkerLoader:
    """The same batches through a `DataLoader`, for data that does not fit into memory.

    Args:
        part: raw samples.
        finish: (raw inputs, raw targets) as a batch -> both as the loop takes them, on the device.
        batch_size: samples a batch; the last of an epoch may have fewer.
        seed: shuffles each epoch; None keeps the order.
        num_workers: processes that load; they live as long as the loader. 0: this process loads.
        pin_memory: copy batches to page-locked memory, from which a GPU reads faster.
    """

    def __init__(
        self,
        part: Part,
        finish: Callable[[Tensor, Tensor], Batch],
        batch_size: int,
        seed: int | None,
        num_workers: int = 0,
        pin_memory: bool = False,
    ) -> None:
        self.batch_size, self.seed, self.finish = batch_size, seed, finish
        self.samples = size(part)
        self._indices: list[list[int]] = []
        by_batch = isinstance(part, tuple)
        self._loader: DataLoader[Any] = DataLoader(
            _Batched(part) if isinstance(part, tuple) else part,
            batch_sampler=_Indices(self),
            num_workers=num_workers,
            persistent_workers=num_workers > 0,
            pin_memory=pin_memory,
            collate_fn=_as_is if by_batch else default_collate,
            # Otherwise each epoch would draw its workers' seed from the generator that dropout draws from.
            generator=generator("workers", seed or 0),
        )

    def __len__(self) -> int:
        return -(-self.samples // self.batch_size)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The batches of an epoch, from the `start`-th (from 0) on."""
        order = torch.arange(self.samples) if self.seed is None else epoch_order(self.samples, self.seed, epoch)
        self._indices = [index.tolist() for index in order.split(self.batch_size)[start:]]
        for inputs, targets in self._loader:
            yield self.finish(inputs, targets)


Loader = TensorLoader | WorkerLoader


@dataclass(frozen=True)
class Loaders:
    """Batches of each part; `val` and `test` are None where there is no such part."""

    train: Loader
    val: Loader | None
    test: Loader | None


def make_loaders(
    splits: Splits,
    *,
    prepare: Callable[[Tensor, torch.dtype], Tensor],
    batch_size: int,
    seed: int,
    device: torch.device,
    dtype: torch.dtype,
    in_memory: bool,
    num_workers: int = 0,
    channels_last: bool = False,
) -> Loaders:
    """Make the batches of all parts; the training part is shuffled anew each epoch.

    Args:
        splits: raw parts.
        prepare: the loss's own, for the targets.
        batch_size: of the training batches; evaluation takes larger ones.
        seed: of the order.
        device: where batches are wanted.
        dtype: of the inputs.
        in_memory: hold everything as tensors on the device.
        num_workers: processes that load, if not in memory.
        channels_last: storage of image batches.
    """
    channels_last = channels_last and len(splits.input_shape) == 3

    def finish(inputs: Tensor, targets: Tensor) -> Batch:
        inputs = splits.normalize(inputs.to(device, non_blocking=True), dtype)
        if channels_last:
            inputs = inputs.contiguous(memory_format=torch.channels_last)
        return inputs, prepare(targets.to(device, non_blocking=True), dtype)

    def make(part: Part | None, train: bool) -> Loader | None:
        if part is None:
            return None
        samples_a_batch = batch_size if train else evaluation_batch_size(batch_size, splits.input_shape)
        order_seed = seed if train else None
        if not in_memory:
            return WorkerLoader(part, finish, samples_a_batch, order_seed, num_workers, device.type == "cuda")
        raw_inputs, raw_targets = part if isinstance(part, tuple) else _load_all(part, num_workers)
        inputs, targets = finish(raw_inputs, raw_targets)
        if channels_last:
            inputs = inputs.permute(0, 2, 3, 1).contiguous()
        return TensorLoader(inputs, targets, samples_a_batch, order_seed, channels_last)

    train = make(splits.train, True)
    assert train is not None
    return Loaders(train, make(splits.val, False), make(splits.test, False))


def evaluation_batch_size(batch_size: int, input_shape: Sequence[int]) -> int:
    """Larger than in training, as no activations are kept: up to 1,024 samples or 4 million values."""
    fitting = 2**22 // max(1, torch.Size(input_shape).numel())
    return max(batch_size, min(1024, fitting))


def epoch_order(samples: int, seed: int, epoch: int) -> Tensor:
    """The order of the samples in an epoch: a permutation of 0..samples-1, on the CPU."""
    return torch.randperm(samples, generator=generator("order", seed, epoch))


def _load_all(part: Dataset[Any], num_workers: int) -> Batch:
    # With a generator of its own, as above.
    batches = list(DataLoader(part, batch_size=256, num_workers=num_workers, generator=generator("load")))
    return torch.cat([inputs for inputs, _ in batches]), torch.cat([targets for _, targets in batches])


class _Batched(Dataset[Batch]):
    """Tensors behind the `Dataset` interface, fetched a batch at a time."""

    def __init__(self, part: Batch) -> None:
        self.inputs, self.targets = part

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, index: int) -> Batch:
        return self.inputs[index], self.targets[index]

    def __getitems__(self, indices: list[int]) -> Batch:
        return self.inputs[indices], self.targets[indices]


class _Indices:
    """The batch sampler: whatever indices the loader has set for this epoch."""

    def __init__(self, loader: WorkerLoader) -> None:
        self._loader = loader

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self._loader._indices)

    def __len__(self) -> int:
        return len(self._loader._indices)


def _as_is(batch: Any) -> Any:
    return batch
