"""A data set divided: limited, split by seed, normalised by its training samples, fingerprinted."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset, Subset

from ..errors import ConfigError, TrainingError
from ..rng import generator
from .source import Part, Source

Batch = tuple[Tensor, Tensor]

SAMPLED = 64  # samples that the fingerprint of a data set takes in, where it brings none of its own
MEASURED = 1024  # samples that mean and std are computed from, where samples are loaded one by one


@dataclass(frozen=True)
class Normalize:
    """Scales uint8 images to [0, 1], subtracts the mean and divides by the standard deviation."""

    mean: Tensor
    std: Tensor

    def to(self, device: torch.device, dtype: torch.dtype) -> "Normalize":
        """The same, with what it needs already where the inputs will be: a GPU waits for each copy."""
        return Normalize(self.mean.to(device, dtype), self.std.to(device, dtype))

    def __call__(self, inputs: Tensor, dtype: torch.dtype) -> Tensor:
        """Raw inputs (N, ...) -> normalised ones of the same shape."""
        raw_images = inputs.dtype == torch.uint8
        # One copy, of which all data sets of images would otherwise have three for a moment.
        scaled = inputs.to(dtype, copy=True)
        if raw_images:
            scaled.div_(255)
        # A step each: fused, they may round differently for a batch than for the whole set.
        return scaled.sub_(self.mean.to(scaled)).div_(self.std.to(scaled))


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
        columns, target: of the table that the samples came from, if they did.
        notes: short phrases about what was guessed from the data.
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
    columns: Sequence[str] | None = None
    target: str | None = None
    notes: Sequence[str] = ()

    def targets(self) -> Tensor:
        """All targets of the training and test part, for the loss to see what they are."""
        return torch.cat([_targets(part) for part in (self.train, self.val, self.test) if part is not None])

    def nbytes(self, dtype: torch.dtype) -> int:
        """Memory that all inputs take at most once they are held for training in that type.

        What a map-style data set gives as uint8 is held as that.
        """
        samples = sum(size(part) for part in (self.train, self.val, self.test))
        if not isinstance(self.train, tuple) and _first(self.train)[0].dtype == torch.uint8:
            dtype = torch.uint8
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
        test = take(test, torch.randperm(size(test), generator=generator("limit", seed))[:limit].sort().values)
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
        columns=source.columns,
        target=source.target,
        notes=source.notes,
    )


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
    return (part[0][0], part[1][0]) if isinstance(part, tuple) else _read(part, 0)


def _read(part: Dataset[Any], index: int) -> Batch:
    try:
        return part[index]
    except TrainingError as error:  # no training yet
        raise ConfigError(str(error)) from error


def _targets(part: Part) -> Tensor:
    if isinstance(part, tuple):
        return part[1]
    if isinstance(part, Subset) and hasattr(part.dataset, "targets"):
        return torch.as_tensor(part.dataset.targets)[list(part.indices)]
    if hasattr(part, "targets"):
        return torch.as_tensor(part.targets)
    return torch.stack([torch.as_tensor(part[i][1]) for i in range(size(part))])


def _normalize(source: Source, train: Part) -> Normalize:
    mean, std = source.mean, source.std
    if mean is None or std is None:
        measured_mean, measured_std = _measure(train) if isinstance(train, tuple) else _measure_some(train)
        mean = measured_mean.tolist() if mean is None else mean
        std = torch.where(measured_std > 0, measured_std, 1.0).tolist() if std is None else std
    shape = _first(train)[0].shape
    return Normalize(_by_channel("mean", mean, shape), _by_channel("std", std, shape))


def _measure(train: Batch) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation over everything but the channel of an image, or the feature of a row."""
    values = _scale(train[0])
    axes = tuple(axis for axis in range(values.ndim) if axis != 1)
    return values.mean(axes), values.std(axes, correction=0)


def _measure_some(train: Dataset[Any]) -> tuple[Tensor, Tensor]:
    """The same of about `MEASURED` samples, one in memory at a time."""
    moments = []
    for inputs, _ in _spread(train, MEASURED):
        values = _scale(torch.as_tensor(inputs))
        values = values.reshape(len(values) if values.ndim else 1, -1)
        moments.append(torch.stack([values.mean(1), values.square().mean(1)]))
    mean, square = torch.stack(moments).mean(0)
    variance = square - mean.square()
    return mean, torch.where(variance > 1e-12 * square, variance, 0.0).sqrt()  # below it, rounding errors


def _scale(inputs: Tensor) -> Tensor:
    """As numbers, images scaled to [0, 1]."""
    return Normalize(torch.tensor(0.0), torch.tensor(1.0))(inputs, torch.float64)


def _by_channel(name: str, value: float | list[float], shape: torch.Size) -> Tensor:
    tensor = torch.tensor(value, dtype=torch.float64)
    if name == "std" and bool((tensor <= 0).any()):
        raise ConfigError(f"data.std={value}: write numbers above 0")
    if tensor.ndim == 0 or tensor.numel() == 1:
        return tensor.reshape(())
    if not shape or tensor.numel() != shape[0]:
        channels = shape[0] if shape else 1
        raise ConfigError(
            f"data.{name} has {tensor.numel()} values, the samples have {channels} channels or features: write one"
            f" value{f', or {channels}' if channels > 1 else ''}"
        )
    return tensor.reshape(-1, *[1] * (len(shape) - 1))


def _hash(part: Part | None, digest: Any) -> None:
    """Feed the contents, or what stands for them.

    Tensors go in whole. A data set that loads sample by sample may have a method `fingerprint() -> bytes`, of all
    it holds; without one its length and `SAMPLED` samples spread over it stand for it.
    """
    if part is None:
        return
    if isinstance(part, tuple):
        for tensor in part:
            digest.update(repr((tensor.dtype, tuple(tensor.shape))).encode())
            digest.update(tensor.contiguous().numpy().data)
        return
    if hasattr(part, "fingerprint"):
        digest.update(part.fingerprint())
        return
    digest.update(repr(size(part)).encode())
    for inputs, target in _spread(part, SAMPLED):
        digest.update(torch.as_tensor(inputs).contiguous().numpy().data)
        wanted = torch.as_tensor(target)
        digest.update(repr(float(target)).encode() if wanted.numel() == 1 else wanted.contiguous().numpy().data)


def _spread(part: Dataset[Any], count: int) -> Iterator[Any]:
    """About so many samples of a data set, evenly spread over it."""
    for index in range(0, size(part), max(1, size(part) // count)):
        yield _read(part, index)
