"""Batches: in memory or through workers, the same ones in the same order.

The order of an epoch is a function of (seed, epoch) alone, and augmentation of (seed, epoch, batch), so that
a resumed run, another number of workers or a skipped validation cannot change what is trained on.
"""

import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset
from tqdm import tqdm

from runner.data.augment import Augment
from runner.data.batched import Indices, MapStyle, Tensors, seeded
from runner.data.source import Part
from runner.data.splits import Batch, Normalize, Splits, size
from runner.errors import ConfigError, TrainingError
from runner.util.rng import generator

STOPS = (signal.SIGINT, signal.SIGTERM)
STOP_SECONDS = 5  # for which a worker outlives a SIGTERM
LOADED_AT_ONCE = 256  # samples, while a data set is brought into memory
READ_TWICE = 16  # samples that tell whether a data set draws at random: more, and rare draws are seen more surely


class TensorLoader:
    """Batches of tensors that lie on the device.

    Args:
        inputs: on the device; (N, ...), images as (N, H, W, C) if `channels_last`.
        targets: prepared by the loss, on the device.
        batch_size: samples a batch; the last of an epoch may have fewer.
        seed: shuffles each epoch; None keeps the order.
        channels_last: batches are images (N, C, H, W) in channels_last storage.
        normalize: done to each batch; None if the inputs are normalised already.
        augment: done to each batch of a shuffled epoch, after that.
    """

    def __init__(
        self,
        inputs: Tensor,
        targets: Tensor,
        batch_size: int,
        seed: int | None,
        channels_last: bool = False,
        normalize: Callable[[Tensor], Tensor] | None = None,
        augment: Augment | None = None,
    ) -> None:
        self.inputs, self.targets = inputs, targets
        self.batch_size, self.seed, self.channels_last = batch_size, seed, channels_last
        self.normalize, self.augment = normalize, augment
        self.samples = len(inputs)

    def __len__(self) -> int:
        return -(-self.samples // self.batch_size)

    def close(self) -> None:
        """Let go of the samples."""
        self.inputs = self.targets = torch.empty(0)

    def in_order(self, batch_size: int) -> "TensorLoader":
        """The same samples, neither shuffled nor augmented."""
        return TensorLoader(self.inputs, self.targets, batch_size, None, self.channels_last, self.normalize)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The batches of an epoch, from the `start`-th (from 0) on."""
        inputs, targets, size = self.inputs, self.targets, self.batch_size
        order = None if self.seed is None else epoch_order(self.samples, self.seed, epoch).to(inputs.device)
        for number, first in enumerate(range(start * size, self.samples, size), start):
            if order is None:
                batch, wanted = inputs[first : first + size], targets[first : first + size]
            else:
                index = order[first : first + size]
                # Permuting the whole epoch at once takes 1.06 times as long (MNIST MLP), and a second copy of it.
                batch, wanted = inputs.index_select(0, index), targets.index_select(0, index)
            if self.channels_last:  # images are kept as (N, H, W, C), so it costs nothing
                batch = batch.permute(0, 3, 1, 2)
            if self.normalize is not None:
                batch = self.normalize(batch)
            if self.augment is not None and self.seed is not None:
                batch = self.augment(batch, generator("augment", self.seed, epoch, number))
            yield batch, wanted


class WorkerLoader:
    """The same batches through a `DataLoader`, for data that does not fit into memory.

    Args:
        part: raw samples.
        finish: (raw inputs, raw targets) as a batch -> both as the loop takes them, on the device.
        batch_size: samples a batch; the last of an epoch may have fewer.
        seed: shuffles each epoch; None keeps the order.
        num_workers: processes that load; they live as long as the loader. 0: this process loads.
        pin_memory: copy batches to page-locked memory, from which a GPU reads faster.
        augment: done to the inputs of each finished batch of a shuffled epoch.
    """

    def __init__(
        self,
        part: Part,
        finish: Callable[[Tensor, Tensor], Batch],
        batch_size: int,
        seed: int | None,
        num_workers: int = 0,
        pin_memory: bool = False,
        augment: Augment | None = None,
    ) -> None:
        self.batch_size, self.seed, self.finish, self.augment = batch_size, seed, finish, augment
        self.samples = size(part)
        self.part, self.num_workers, self._pin_memory = part, num_workers, pin_memory
        self._indices = _Indices()
        self._loader: DataLoader[Any] = DataLoader(
            Tensors(part) if isinstance(part, tuple) else MapStyle(part),
            batch_sampler=self._indices,
            num_workers=num_workers,
            persistent_workers=num_workers > 0,
            pin_memory=pin_memory,
            collate_fn=_as_is,
            worker_init_fn=_outlive_a_stop,
            # Otherwise each epoch would draw its workers' seed from the generator that dropout draws from.
            generator=generator("workers", seed or 0),
        )

    def __len__(self) -> int:
        return -(-self.samples // self.batch_size)

    def close(self) -> None:
        """End the workers now: at the end of a process they are not told to, and waited for."""
        iterator: Any = getattr(self._loader, "_iterator", None)
        if hasattr(iterator, "_shutdown_workers"):
            iterator._shutdown_workers()
        self._loader._iterator = None

    def in_order(self, batch_size: int) -> "WorkerLoader":
        """The same samples, neither shuffled nor augmented."""
        return WorkerLoader(self.part, self.finish, batch_size, None, self.num_workers, self._pin_memory)

    def without_workers(self) -> "WorkerLoader":
        """The same batches, loaded by this process."""
        return WorkerLoader(self.part, self.finish, self.batch_size, self.seed, augment=self.augment)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The batches of an epoch, from the `start`-th (from 0) on.

        Raises:
            TrainingError: a sample cannot be read.
        """
        order = torch.arange(self.samples) if self.seed is None else epoch_order(self.samples, self.seed, epoch)
        of_batch = (self.seed or 0, epoch if self.seed is not None else 0)
        self._indices.batches = [
            seeded(index.tolist(), "samples", *of_batch, number)
            for number, index in enumerate(order.split(self.batch_size)[start:], start)
        ]
        for number, batch in enumerate(_begun(self._loader), start):
            if isinstance(batch, TrainingError):
                try:
                    raise batch
                finally:
                    del batch  # no circle of the error, its frames and the workers: see `_Indices`
            inputs, targets = self.finish(*batch)
            if self.augment is not None and self.seed is not None:
                inputs = self.augment(inputs, generator("augment", self.seed, epoch, number))
            yield inputs, targets


Loader = TensorLoader | WorkerLoader


@dataclass(frozen=True)
class Loaders:
    """Batches of each part; `val` and `test` are None where there is no such part.

    Attributes:
        evaluation_batch_size: of `val` and `test`.
    """

    train: Loader
    val: Loader | None
    test: Loader | None
    evaluation_batch_size: int

    def data_sets(self) -> dict[str, Dataset[Any]]:
        """The data sets that are still read, by the first part that is read from them; no tensors."""
        found: dict[str, Dataset[Any]] = {}
        for name, loader in (("train", self.train), ("val", self.val), ("test", self.test)):
            part = loader.part if isinstance(loader, WorkerLoader) else None
            while isinstance(part, Subset):
                part = part.dataset
            if isinstance(part, Dataset) and not any(part is other for other in found.values()):
                found[name] = part
        return found

    @property
    def workers(self) -> int:
        """How many processes load the training part; 0 if the training process does."""
        return self.train.num_workers if isinstance(self.train, WorkerLoader) else 0

    def without_workers(self) -> "Loaders":
        """The same batches, all of them loaded by the process that asks for them."""
        made = [p.without_workers() if isinstance(p, WorkerLoader) else p for p in (self.train, self.val, self.test)]
        assert made[0] is not None
        return Loaders(made[0], made[1], made[2], self.evaluation_batch_size)

    def close(self) -> None:
        """Let go of what the batches are made of: tensors, or the processes that load."""
        for loader in (self.train, self.val, self.test):
            if loader is not None:
                loader.close()


class Finish:
    """Makes a batch of raw samples one that the model can see, on the device.

    Args:
        normalize: of the inputs.
        prepare: the loss's own, for the targets.
        device: where batches are wanted.
        dtype: of the inputs.
        channels_last: storage of images.
    """

    def __init__(
        self,
        normalize: Normalize,
        prepare: Callable[[Tensor, torch.dtype], Tensor],
        device: torch.device,
        dtype: torch.dtype,
        channels_last: bool,
    ) -> None:
        self._raw, self._there = normalize, normalize.to(device, dtype)
        self._prepare, self._device, self._dtype, self._channels_last = prepare, device, dtype, channels_last

    def __call__(self, inputs: Tensor, targets: Tensor) -> Batch:
        """Raw inputs (N, ...) and targets (N, ...) -> both as the loop takes them."""
        if self._raw.wide:  # before the move: not every device has float64
            inputs = self._raw(inputs, self._dtype).to(self._device, non_blocking=True)
        else:
            inputs = self.normalize(inputs.to(self._device, non_blocking=True))
        if self._channels_last:
            inputs = inputs.contiguous(memory_format=torch.channels_last)
        return inputs, self.targets(targets)

    def normalize(self, inputs: Tensor) -> Tensor:
        """Inputs that are on the device."""
        return self._there(inputs, self._dtype)

    def targets(self, targets: Tensor) -> Tensor:
        """Targets alone."""
        return self._prepare(_for(self._device, targets).to(self._device, non_blocking=True), self._dtype)


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
    augment: Augment | None = None,
    values: int = 0,
) -> Loaders:
    """Make the batches of all parts; the training part is shuffled anew each epoch.

    What a map-style data set gives as uint8 is kept so in memory, and normalised batch by batch: photographs
    would take four times as much. Tensors are normalised once, for which MNIST takes 188 MB instead of 47: batch by
    batch it takes 43 us for 64 images, 3 to 5 % of the MLP's step. Those of the test part, which is gone through once,
    stay as they are.

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
        augment: of the batches of the training part, and of no other.
        values: of one sample, in the largest tensor that a layer of the model gives.

    Raises:
        ConfigError: a sample that is to be held in memory cannot be read.
    """
    evaluated_at_once = evaluation_batch_size(batch_size, max(values, prod(splits.input_shape)), device)
    channels_last = channels_last and len(splits.input_shape) == 3
    if augment is not None:
        augment = augment.to(device, dtype)
    finish = Finish(splits.normalize, prepare, device, dtype, channels_last)

    def make(part: Part | None, train: bool = False, once: bool = False) -> Loader | None:
        if part is None:
            return None
        samples_a_batch = batch_size if train else evaluated_at_once
        order_seed = seed if train else None
        of_train = augment if train else None
        if not in_memory:
            pin_memory = device.type == "cuda"
            return WorkerLoader(part, finish, samples_a_batch, order_seed, num_workers, pin_memory, of_train)
        inputs, targets = part if isinstance(part, tuple) else _load_all(part, num_workers)
        kept_raw = inputs.dtype == torch.uint8 and (once or not isinstance(part, tuple))
        if kept_raw:
            inputs, targets = inputs.to(device), finish.targets(targets)
        else:
            inputs, targets = finish(inputs, targets)
        if channels_last:
            inputs = inputs.permute(0, 2, 3, 1).contiguous()
        by_batch = finish.normalize if kept_raw else None
        return TensorLoader(inputs, targets, samples_a_batch, order_seed, channels_last, by_batch, of_train)

    train = make(splits.train, train=True)
    assert train is not None
    return Loaders(train, make(splits.val), make(splits.test, once=True), evaluated_at_once)


def evaluation_batch_size(batch_size: int, values: int, device: torch.device) -> int:
    """Larger than in training, as no activations are kept: up to 4,096 samples, as far as their values fit.

    Two cores of a CPU, loss and accuracy included, for which torch takes both cores from 3,277 samples of ten classes
    on: 12,000 samples take the MLP 28.0 ms by 1,024, 27.5 by 2,048, 26.8 by 4,096 and 27.8 by 8,192; 4,000 take the
    CNN, whose layers give 25,088 values, 603 ms by 64, 614 by 83, 582 by 128 and 587 by 167.

    Args:
        batch_size: of training.
        values: of one sample, in the largest tensor of the forward pass.
        device: where it is computed. For a CPU, which gains nothing by more, 16 MB a tensor are enough; a GPU is to be
            kept busy (128 MB; not measured).
    """
    fitting = 2 ** (22 if device.type == "cpu" else 25) // max(1, values)
    return max(batch_size, min(4096, fitting))


def epoch_order(samples: int, seed: int, epoch: int) -> Tensor:
    """The order of the samples in an epoch: a permutation of 0..samples-1, on the CPU."""
    return torch.randperm(samples, generator=generator("order", seed, epoch))


def is_random(part: Part) -> bool:
    """Whether samples come out otherwise when they are read again, as they do if a data set augments them itself.

    Raises:
        ConfigError: one cannot be read.
    """
    if isinstance(part, tuple):
        return False
    some = Subset(part, range(0, size(part), max(1, size(part) // READ_TWICE))[:READ_TWICE])
    both = zip(*(_load_all(some, 0, purpose) for purpose in ("samples", "samples again")), strict=True)
    return not all(torch.allclose(one, other, rtol=0, atol=0, equal_nan=True) for one, other in both)


def _load_all(part: Dataset[Any], num_workers: int, purpose: str = "samples") -> Batch:
    """Read every sample once, in order; what is drawn for them depends on the purpose.

    Raises:
        ConfigError: one cannot be read.
    """
    count, first = size(part), 0
    indices = _Indices()
    indices.batches = [
        seeded(index.tolist(), purpose, number)
        for number, index in enumerate(torch.arange(count).split(LOADED_AT_ONCE))
    ]
    loader: DataLoader[Any] = DataLoader(
        MapStyle(part),
        batch_sampler=indices,
        num_workers=num_workers,
        collate_fn=_as_is,
        worker_init_fn=_outlive_a_stop,
        generator=generator("load"),  # one of its own, as above
    )
    whole: list[Tensor] = []
    bar = partial(tqdm, desc="reading samples", total=len(indices), unit="batch", leave=False, disable=None, delay=2)
    for batch in bar(_begun(loader)):
        if isinstance(batch, TrainingError):
            raise ConfigError(str(batch)) from batch
        # Written where it belongs at once: joined at the end, the samples would lie in memory twice.
        whole = whole or [values.new_empty(count, *values.shape[1:]) for values in batch]
        for place, values in zip(whole, batch, strict=True):
            place[first : first + len(values)] = values
        first += len(batch[0])
    return whole[0], whole[1]


class _Indices:
    """The batch sampler: whatever indices the loader has set for this epoch.

    It knows nothing of the loader: in a circle of references the pipes to the workers may be closed before they are
    told to end, and each is waited for 5 s.
    """

    def __init__(self) -> None:
        self.batches: list[Indices] = []

    def __iter__(self) -> Iterator[Indices]:
        return iter(self.batches)

    def __len__(self) -> int:
        return len(self.batches)


def _for(device: torch.device, targets: Tensor) -> Tensor:
    """Targets of a type that the device has: MPS has no float64."""
    return targets.float() if device.type == "mps" and targets.dtype == torch.float64 else targets


def _as_is(batch: Any) -> Any:
    return batch


def _begun(loader: DataLoader[Any]) -> Iterator[Any]:
    """The batches; a worker that begins now is not told to end before it has called `_outlive_a_stop`."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)
    try:
        return iter(loader)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _outlive_a_stop(_: int) -> None:
    """Let a worker go on loading for a while when it is told to end: Ctrl-C and schedulers tell the whole group.

    The training process has the step in progress to finish, and ends its workers itself; by SIGTERM too, if one does
    not answer.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: signal.alarm(STOP_SECONDS))  # SIGALRM ends it, whatever it waits for
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPS)
