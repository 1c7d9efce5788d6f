"""From a source to batches: limit, split, normalise, and the same order every time.

The order of an epoch is a function of (seed, epoch) alone, so that a resumed run, another number of
workers or a skipped validation cannot change what is trained on.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b, sha256
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset, default_collate

from ..errors import ConfigError
from .source import Part, Source

Batch = tuple[Tensor, Tensor]

MEMORY_SHARE = 0.5  # of the free memory: what data may take before `in_memory=auto` leaves it where it is


def generator(purpose: str, *numbers: int) -> torch.Generator:
    """A generator whose stream depends on the purpose and the numbers, such as (seed, epoch), alone."""
    digest = blake2b(repr((purpose, *numbers)).encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "big") >> 1)


@dataclass(frozen=True)
class Normalize:
    """Scales uint8 images to [0, 1], subtracts the mean and divides by the standard deviation."""

    mean: Tensor
    std: Tensor

    def __call__(self, inputs: Tensor, dtype: torch.dtype) -> Tensor:
        """Raw inputs (N, ...) -> normalised ones of the same shape."""
        raw_images = inputs.dtype == torch.uint8
        inputs = inputs.to(dtype)
        if raw_images:
            inputs = inputs / 255
        # A step each: fused, they may round differently for a batch than for the whole set.
        return inputs.sub(self.mean.to(inputs)).div_(self.std.to(inputs))


@dataclass(frozen=True)
class Splits:
    """A data set divided, still raw and on the CPU.

    Attributes:
        train: the samples trained on.
        val: held out of the training part; None with `val_fraction=0`.
        test: the test part; None if the data set has none.
        normalize: from raw inputs to what the model sees.
        input_shape: of one sample.
        fingerprint: hash of contents and split.
    """

    name: str
    origin: str
    classes: Sequence[str] | None
    train: Part
    val: Part | None
    test: Part | None
    normalize: Normalize
    input_shape: tuple[int, ...]
    fingerprint: str

    def targets(self) -> Tensor:
        """All targets of the training and test part, for the loss to see what they are."""
        return torch.cat([_targets(part) for part in (self.train, self.val, self.test) if part is not None])

    def nbytes(self, dtype: torch.dtype) -> int:
        """Memory that all inputs take once they are held as tensors of that type."""
        samples = sum(size(part) for part in (self.train, self.val, self.test))
        return samples * int(torch.Size(self.input_shape).numel()) * dtype.itemsize


def split(source: Source, *, val_fraction: float, limit: int | None, seed: int) -> Splits:
    """Limit a source's parts and hold validation samples out of the training part.

    Args:
        source: what the data set's function returned.
        val_fraction: share of the (limited) training part held out, at random by the seed.
        limit: at most so many samples of each part, at random by the seed.
        seed: the run's.

    Raises:
        ConfigError: the fraction leaves one of the two without a sample.
    """
    total = size(source.train)
    if total == 0:
        raise ConfigError(f"data={source.name} has no training samples")
    order = torch.randperm(total, generator=generator("split", seed))[:limit]
    held_out = round(len(order) * val_fraction)
    if val_fraction > 0 and held_out == 0:
        raise ConfigError(
            f"data.val_fraction={val_fraction:g} of {len(order)} training samples is none: write data.val_fraction=0,"
            " or a larger one"
        )
    if held_out == len(order):
        raise ConfigError(
            f"data.val_fraction={val_fraction:g} leaves no training sample of {len(order)}: write a smaller one"
        )
    # Sorted: a part keeps the data set's own order, the order of training is another function's affair.
    val_index, train_index = order[:held_out].sort().values, order[held_out:].sort().values
    train = take(source.train, train_index)
    test = source.test
    if test is not None and limit is not None and size(test) > limit:
        test = take(
            test, torch.randperm(size(test), generator=generator("limit", seed))[:limit].sort().values
        )
    digest = sha256()
    for part in (source.train, source.test):
        _hash(part, digest)
    for index in (train_index, val_index):
        digest.update(index.numpy().tobytes())
    return Splits(
        name=source.name,
        origin=source.origin,
        classes=source.classes,
        train=train,
        val=take(source.train, val_index) if held_out else None,
        test=test,
        normalize=_normalize(source, train),
        input_shape=tuple(_first(train)[0].shape),
        fingerprint=digest.hexdigest()[:32],
    )


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
        order = (
            torch.arange(self.samples) if self.seed is None else epoch_order(self.samples, self.seed, epoch)
        )
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


def loaders(
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


def size(part: Part | None) -> int:
    """How many samples a part has."""
    if part is None:
        return 0
    return len(part[0]) if isinstance(part, tuple) else len(part)  # type: ignore[arg-type]


def take(part: Part, index: Tensor) -> Part:
    """The samples of a part at the indices."""
    if isinstance(part, tuple):
        return part[0][index], part[1][index]
    return Subset(part, index.tolist())


def _first(part: Part) -> Batch:
    return (part[0][0], part[1][0]) if isinstance(part, tuple) else part[0]


def _targets(part: Part) -> Tensor:
    if isinstance(part, tuple):
        return part[1]
    if isinstance(part, Subset) and hasattr(part.dataset, "targets"):
        return torch.as_tensor(part.dataset.targets)[list(part.indices)]
    if hasattr(part, "targets"):
        return torch.as_tensor(part.targets)
    return torch.stack([torch.as_tensor(part[i][1]) for i in range(size(part))])


def _load_all(part: Dataset[Any], num_workers: int) -> Batch:
    batches = list(DataLoader(part, batch_size=256, num_workers=num_workers))
    return torch.cat([inputs for inputs, _ in batches]), torch.cat([targets for _, targets in batches])


def _normalize(source: Source, train: Part) -> Normalize:
    mean, std = source.mean, source.std
    if (mean is None or std is None) and isinstance(train, tuple):
        values = Normalize(torch.tensor(0.0), torch.tensor(1.0))(train[0], torch.float64)
        # Over everything but the channel of an image, or the feature of a row.
        axes = tuple(axis for axis in range(values.ndim) if axis != 1)
        mean = values.mean(axes).tolist() if mean is None else mean
        if std is None:
            std = values.std(axes, correction=0).tolist()
            std = [s if s > 0 else 1.0 for s in (std if isinstance(std, list) else [std])]
    shape = _first(train)[0].shape
    return Normalize(
        _by_channel("mean", mean or 0.0, shape), _by_channel("std", 1.0 if std is None else std, shape)
    )


def _by_channel(name: str, value: float | list[float], shape: torch.Size) -> Tensor:
    tensor = torch.tensor(value, dtype=torch.float64)
    if name == "std" and bool((tensor <= 0).any()):
        raise ConfigError("data.std must be above 0 everywhere")
    if tensor.ndim == 0 or tensor.numel() == 1:
        return tensor.reshape(())
    if not shape or tensor.numel() != shape[0]:
        channels = shape[0] if shape else 1
        raise ConfigError(
            f"data.{name} has {tensor.numel()} values, the samples {channels} channels: write one value, or {channels}"
        )
    return tensor.reshape(-1, *[1] * (len(shape) - 1))


def _hash(part: Part | None, digest: Any) -> None:
    """Feed the contents; of a data set that loads sample by sample, its length and 64 samples spread over it."""
    if part is None:
        return
    if isinstance(part, tuple):
        for tensor in part:
            digest.update(repr((tensor.dtype, tuple(tensor.shape))).encode())
            digest.update(tensor.contiguous().numpy().data)
        return
    count = size(part)
    digest.update(repr(count).encode())
    for index in range(0, count, max(1, count // 64)):
        inputs, target = part[index]
        digest.update(torch.as_tensor(inputs).contiguous().numpy().data)
        digest.update(repr(float(target)).encode())


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
