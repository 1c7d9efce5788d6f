"""A data set divided: limited, split by seed, normalised by its training samples, fingerprinted."""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b, sha256
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Subset

from ..errors import ConfigError
from .source import Part, Source

Batch = tuple[Tensor, Tensor]


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
    return (part[0][0], part[1][0]) if isinstance(part, tuple) else part[0]


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
    if (mean is None or std is None) and isinstance(train, tuple):
        values = Normalize(torch.tensor(0.0), torch.tensor(1.0))(train[0], torch.float64)
        # Over everything but the channel of an image, or the feature of a row.
        axes = tuple(axis for axis in range(values.ndim) if axis != 1)
        mean = values.mean(axes).tolist() if mean is None else mean
        if std is None:
            std = values.std(axes, correction=0).tolist()
            std = [s if s > 0 else 1.0 for s in (std if isinstance(std, list) else [std])]
    shape = _first(train)[0].shape
    return Normalize(_by_channel("mean", mean or 0.0, shape), _by_channel("std", 1.0 if std is None else std, shape))


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
